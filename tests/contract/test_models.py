"The model contract, kept by every kind of model; and models that cannot be read."

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from mlkit.checks import check_model
from mlkit.kinds import Constant
from mlkit.modelfiles import load_model, model_digest, save_model
from mlkit.models import Model, ModelError, contributions, matrix, row
from mlkit.recipes import Compute, Recipe, fit
from mlkit.usecases.fraud import features

KINDS = ["constant", "logistic", "xgboost"]


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    "Feature rows with values missing here and there, and labels that depend on them."
    draw, n = np.random.default_rng(5), 1500
    columns = {
        f.name: draw.integers(0, 2, n).astype(bool)
        if f.dtype == pl.Boolean
        else draw.poisson(4, n)
        if f.dtype == pl.Int64
        else draw.lognormal(2, 1, n)
        for f in features.features
    }
    rows = pl.DataFrame(columns, schema={f.name: f.dtype for f in features.features})
    rows = rows.with_columns(
        pl.when(pl.lit(pl.Series(draw.random(n) < 0.05))).then(None).otherwise(pl.col(c)).alias(c)
        for c in rows.columns
    )
    return rows.with_columns(label=pl.Series(columns["amount"] * draw.random(n) > 12))


@pytest.fixture(scope="module")
def models(frame) -> dict[str, Model]:
    "One trained model of each kind, calibrated as after training."
    made = {
        kind: fit(
            Recipe(kind, dict(n_estimators=40) if kind == "xgboost" else {}),
            frame,
            features.names,
            features.hash,
            compute=Compute(threads=1),
        )
        for kind in KINDS
    }
    return {kind: replace_calibration(m, (0.9, -0.1)) for kind, m in made.items()}


def replace_calibration(model: Model, calibration: tuple[float, float]) -> Model:
    model.calibration = calibration
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(kind, models, frame):
    "The suite that a candidate must pass."
    failed = [
        c
        for c in check_model(models[kind], features, frame, latency_budget_ms=1000)
        if not c.passed
    ]
    assert not failed


@pytest.mark.parametrize("kind", KINDS)
def test_batch_of_one_equals_batch_of_many(kind, models, frame):
    "Every row, alone as the service scores it, in pieces and all together: the same bits."
    model = models[kind]
    x = matrix(frame, model.features)
    together = model.score(x)
    alone = np.concatenate([model.score(row(r, model.features)) for r in frame.to_dicts()])
    pieces = np.concatenate([model.score(part) for part in np.array_split(x, 7)])
    assert alone.tobytes() == together.tobytes() == pieces.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_saved_model_is_data(kind, models, frame, tmp_path):
    "No pickle, nothing that runs code; it comes back with the same scores, digest and description."
    digest = save_model(models[kind], tmp_path / "model")
    files = {p.name: p.read_bytes() for p in (tmp_path / "model").rglob("*") if p.is_file()}
    assert set(files) <= {"model.json", "booster.ubj"} and json.loads(files["model.json"])
    assert not any(
        data[:1] == b"\x80" or b"cposix" in data or b"__reduce__" in data for data in files.values()
    )
    back = load_model(tmp_path / "model")
    x = matrix(frame, back.features)
    assert back.score(x).tobytes() == models[kind].score(x).tobytes()
    assert (type(back), back.features, back.features_hash, back.calibration) == (
        type(models[kind]),
        features.names,
        features.hash,
        (0.9, -0.1),
    )
    assert save_model(back, tmp_path / "again") == digest == model_digest(tmp_path / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_shape_and_missing_features_are_refused(kind, models, frame):
    "A wrong number of features is never scored."
    model = models[kind]
    for x in (
        np.zeros((2, len(model.features) - 1)),
        np.zeros((2, len(model.features) + 1)),
        np.zeros(len(model.features)),
    ):
        with pytest.raises(ModelError, match="expected"):
            model.score(x)
    with pytest.raises(ModelError, match=model.features[0]):
        matrix(frame.drop(model.features[0]), model.features)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_rows_get_a_probability_or_an_error(kind, models):
    "All missing, zero, huge and tiny values."
    model = models[kind]
    for value in (np.nan, 0.0, 1e30, -1e30, 5e-324, 2.0**63):
        try:
            p = model.score(np.full((1, len(model.features)), value))
        except ModelError:
            continue
        assert 0 <= p[0] <= 1, value


@pytest.mark.parametrize("kind", KINDS)
def test_contributions_name_what_the_model_saw(kind, models, frame):
    "At most three, strongest first, with the request's own values."
    values = frame.drop("label").row(0, named=True)
    found = contributions(models[kind], values, row(values, models[kind].features))
    assert len(found) == (0 if kind == "constant" else 3)
    assert all(values[moved["feature"]] == moved["value"] for moved in found)
    effects = [abs(moved["effect"]) for moved in found]
    assert effects == sorted(effects, reverse=True)


# %% The suite sees what is wrong


class Broken(Constant):
    "Constant but for one fault."

    kind = "broken in a test"
    fault = ""

    def margin(self, x: np.ndarray) -> np.ndarray:
        z = np.nan_to_num(x[:, 0])
        if self.fault == "depends on the others":
            return z - z.mean()
        if self.fault == "depends on their number":
            return z * (1 + 1e-12 * len(x))
        if self.fault == "random":
            return z + np.random.default_rng().random(len(x))
        if self.fault == "not finite":
            return np.where(z > 9, np.nan, z)
        if self.fault == "fails on missing values" and np.isnan(x).all():
            raise ModelError("the model gave a score that is not finite.")
        return z

    def state(self) -> dict[str, Any]:
        return {"z": 0.0, "fault": "" if self.fault == "forgets" else self.fault}

    def restore(self, state: dict[str, Any]) -> None:
        self.fault = state["fault"] or "another"

    def score(self, x: np.ndarray) -> np.ndarray:
        return super().score(x) * (2 if self.fault == "above one" else 1) + 1e-9 * (
            self.fault == "another"
        )


FAULTS = {
    "depends on the others": "rows are independent",
    "depends on their number": "rows are independent",
    "random": "scoring is deterministic",
    "not finite": "scores are finite",
    "above one": "scores are probabilities",
    "forgets": "saving changes nothing",
    "fails on missing values": "missing facts do not break it",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_model_sees(fault, frame, monkeypatch):
    "A model with one fault fails the check that is named after it, and the suite still ends."
    monkeypatch.setitem(Model.kinds, Broken.kind, Broken)
    model = Broken(features.names, features.hash)
    model.fault = fault
    assert FAULTS[fault] in [c.name for c in check_model(model, features, frame) if not c.passed]


def test_check_model_sees_unknown_features_and_other_definitions(frame, models):
    strange, other = (
        Constant([*features.names, "shoe_size"], features.hash),
        Constant(features.names, "0" * 16),
    )
    assert [c.name for c in check_model(strange, features, frame) if not c.passed] == [
        "features are known"
    ]
    assert [c.name for c in check_model(other, features, frame) if not c.passed] == [
        "trained on these definitions"
    ]


def test_check_model_sees_slowness(frame, models):
    assert [
        c.name
        for c in check_model(models["constant"], features, frame, latency_budget_ms=0)
        if not c.passed
    ] == ["within the latency budget"]


# %% Folders that hold no model


def edit(**changes: Any):
    "Change the description; None leaves a key out."

    def change(folder: Path) -> None:
        said = {**json.loads((folder / "model.json").read_text()), **changes}
        (folder / "model.json").write_text(
            json.dumps({k: v for k, v in said.items() if v is not None})
        )

    return change


def cut(name: str, to: float):
    "Leave only the first part of a file."
    return lambda folder: (folder / name).write_bytes(
        (data := (folder / name).read_bytes())[: int(len(data) * to)]
    )


DAMAGE = {
    "folder is missing": ("logistic", shutil.rmtree),
    "description is missing": ("logistic", lambda d: (d / "model.json").unlink()),
    "description is empty": ("logistic", cut("model.json", 0)),
    "description is truncated": ("logistic", cut("model.json", 0.5)),
    "description is a list": ("logistic", lambda d: (d / "model.json").write_text("[]")),
    "description is not UTF-8": (
        "logistic",
        lambda d: (d / "model.json").write_bytes(b'{"kind": "\xff"}'),
    ),
    "of a later format": ("logistic", edit(format=3)),
    "of an unknown kind": ("logistic", edit(kind="oracle")),
    "kind is a list": ("logistic", edit(kind=["logistic"])),
    "kind left out": ("logistic", edit(kind=None)),
    "features left out": ("logistic", edit(features=None)),
    "calibration left out": ("logistic", edit(calibration=None)),
    "calibration of words": ("logistic", edit(calibration=["a", "b"])),
    "calibration of one number": ("logistic", edit(calibration=[1.0])),
    "state left out": ("logistic", edit(state=None)),
    "state is empty": ("logistic", edit(state={})),
    "fewer weights than features": (
        "logistic",
        edit(state=dict(weights=[1.0, 2.0], mean=[0.0, 0.0], spread=[1.0, 1.0], intercept=0.0)),
    ),
    "one weight for all features": (
        "logistic",
        edit(state=dict(weights=[1.0], mean=[0.0], spread=[1.0], intercept=0.0)),
    ),
    "constant is a word": ("constant", edit(state={"z": "high"})),
    "other features than the trees": ("xgboost", edit(features=["amount"])),
    "trees are missing": ("xgboost", lambda d: (d / "booster.ubj").unlink()),
    "trees are empty": ("xgboost", cut("booster.ubj", 0)),
    "trees are truncated": ("xgboost", cut("booster.ubj", 0.5)),
    "trees lack the last byte": (
        "xgboost",
        lambda d: (d / "booster.ubj").write_bytes((d / "booster.ubj").read_bytes()[:-1]),
    ),
    "trees are something else": ("xgboost", lambda d: (d / "booster.ubj").write_bytes(b"junk")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_model_is_refused(damage, models, tmp_path):
    "`ModelError` that names the folder, when it is read and not at the first request."
    kind, do = DAMAGE[damage]
    save_model(models[kind], tmp_path / "model")
    do(tmp_path / "model")
    with pytest.raises(ModelError, match="model"):
        load_model(tmp_path / "model")


def test_flipped_bits_of_the_trees_are_seen(models, tmp_path):
    "A changed booster is never handed to XGBoost, which can crash the process on it."
    save_model(models["xgboost"], tmp_path / "model")
    whole = (tmp_path / "model" / "booster.ubj").read_bytes()
    if "booster.ubj" not in (tmp_path / "model" / "model.json").read_text():
        pytest.fail(
            "model.json does not say what its booster.ubj is; reading a damaged one could end this process"
        )
    for at in random.Random(1).sample(range(len(whole)), 30):
        (tmp_path / "model" / "booster.ubj").write_bytes(
            whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        )
        with pytest.raises(ModelError, match="model"):
            load_model(tmp_path / "model")
