"""Models trained elsewhere, on what a workspace knew at an earlier cut.

    python candidates.py FOLDER

Prints, as JSON, how far their training reached and their files by name.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import polars as pl
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier, VotingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mlkit.context import Context
from mlkit.datasets import Data, Fold, read_data
from mlkit.models import matrix
from mlkit.records import Record

LINE = LogisticRegression(max_iter=500)
TREE = DecisionTreeClassifier(max_depth=3, min_samples_leaf=50, random_state=0)
THREE = [("line", LINE), ("tree", TREE), ("bayes", GaussianNB())]
BY_SKLEARN = {
    "line": LINE,
    "shallow tree": TREE,
    "forest": RandomForestClassifier(50, max_depth=6, random_state=0),
    "network": MLPClassifier((16, 8), max_iter=40, random_state=0),
    "three together": VotingClassifier(THREE, voting="soft", flatten_transform=False),
}


def earlier() -> tuple[Data, Fold]:
    "What the workspace knows, and its second latest fold."
    context = Context.load()
    made = Record.read(context.workspace, "02_features").result
    cut = datetime.fromisoformat(made["cut"])
    data = read_data(context.usecase, context.logs, made["frame"], cut)
    return data, data.folds[1]


def to_file(estimator: Any, x: np.ndarray, y: np.ndarray, path: Path) -> Path:
    "Fit an estimator of scikit-learn, and write it as an ONNX graph."
    whole = make_pipeline(SimpleImputer(keep_empty_features=True), StandardScaler(), estimator)
    whole.fit(x, y)
    graph = to_onnx(whole, x[:1].astype(np.float32), options={"zipmap": False})
    path.write_bytes(graph.SerializeToString())
    return path


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data, fold = earlier()
    x, y = matrix(fold.train, data.inputs), fold.train["label"].cast(pl.Int8).to_numpy()
    files = {
        name: to_file(estimator, x, y, folder / f"{name.replace(' ', '-')}.onnx")
        for name, estimator in BY_SKLEARN.items()
    }
    settings = dict(objective="binary", num_leaves=7, verbosity=-1, num_threads=1)
    rows = lightgbm.Dataset(x, y, params=dict(verbosity=-1))
    files["lightgbm"] = folder / "trees.txt"
    lightgbm.train(settings, rows, 60).save_model(files["lightgbm"])
    told = dict(until=fold.cut.isoformat(), files={name: str(path) for name, path in files.items()})
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
