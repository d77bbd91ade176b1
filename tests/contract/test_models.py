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

from mlkit.checks import Check, check_model
from mlkit.datasets import TrainingError
from mlkit.kinds import Constant
from mlkit.modelfiles import load_model, model_digest, save_model
from mlkit.models import Model, ModelError, contributions, matrix, row
from mlkit.questions import Bounds
from mlkit.recipes import Compute, Recipe, fit
from mlkit.usecases.fraud import features

KINDS = ["constant", "logistic", "xgboost"]


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    "Feature rows with values missing here and there, and labels that depend on them."
    draw = np.random.default_rng(5)
    rows = 1500
    columns = {f.name: some_values(draw, f.dtype, rows) for f in features.features}
    label = pl.Series(columns["amount"] * draw.random(rows) > 12)
    made = pl.DataFrame(columns, schema={f.name: f.dtype for f in features.features})
    for name in made.columns:
        known = pl.lit(pl.Series(draw.random(rows) >= 0.05))
        made = made.with_columns(pl.when(known).then(pl.col(name)).alias(name))
    return made.with_columns(label=label)


def some_values(draw: np.random.Generator, dtype: Any, rows: int) -> np.ndarray:
    if dtype == pl.Boolean:
        return draw.integers(0, 2, rows).astype(bool)
    if dtype == pl.Int64:
        return draw.poisson(4, rows)
    return draw.lognormal(2, 1, rows)


@pytest.fixture(scope="module")
def models(frame) -> dict[str, Model]:
    "One trained model of each kind, calibrated as after training."
    return {kind: calibrated(kind, frame) for kind in KINDS}


def calibrated(kind: str, frame: pl.DataFrame) -> Model:
    params = dict(n_estimators=40) if kind == "xgboost" else {}
    recipe = Recipe(kind, params)
    model = fit(recipe, frame, features.names, features.hash, Compute(threads=1))
    model.calibration = (0.9, -0.1)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_keeps_the_contract(kind, models, frame):
    "The suite that a candidate must pass."
    checks = check_model(models[kind], features, frame, latency_budget_ms=1000, bounds=QUICK)
    assert failed(checks) == []


def failed(checks: list[Check]) -> list[str]:
    "Names of the checks that were not passed."
    return [check.name for check in checks if not check.passed]


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
    model = models[kind]
    digest = save_model(model, tmp_path / "model")
    files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    assert set(files) == {"model.json", *model.files}
    assert json.loads(files["model.json"])["kind"] == kind
    for data in files.values():
        assert data[:1] != b"\x80"
        assert b"cposix" not in data
        assert b"__reduce__" not in data
    back = load_model(tmp_path / "model")
    x = matrix(frame, back.features)
    assert back.score(x).tobytes() == model.score(x).tobytes()
    assert type(back) is type(model)
    assert (back.features, back.features_hash) == (features.names, features.hash)
    assert back.calibration == (0.9, -0.1)
    assert save_model(back, tmp_path / "copy") == digest == model_digest(tmp_path / "model")


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_shape_and_missing_features_are_refused(kind, models, frame):
    "A wrong number of features is never scored."
    model = models[kind]
    n = len(model.features)
    for x in (np.zeros((2, n - 1)), np.zeros((2, n + 1)), np.zeros(n)):
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


QUICK = Bounds(alone_seconds=0.3, calls=500)


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

    def contributions(self, x: np.ndarray) -> np.ndarray:
        if self.fault == "contributions depend on the others":
            return np.full(x.shape, float(len(x)))
        if self.fault == "contributions are not finite":
            return np.full(x.shape, np.inf)
        return np.zeros(x.shape)

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
    "contributions depend on the others": "contributions are reproducible",
    "contributions are not finite": "contributions are reproducible",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_check_model_sees(fault, frame, monkeypatch):
    "A model with one fault fails the check that is named after it, and the suite still ends."
    monkeypatch.setitem(Model.kinds, Broken.kind, Broken)
    model = Broken(features.names, features.hash)
    model.fault = fault
    assert FAULTS[fault] in failed(check_model(model, features, frame, bounds=QUICK))


def test_check_model_sees_unknown_features_and_other_definitions(frame):
    strange = Constant([*features.names, "shoe_size"], features.hash)
    assert failed(check_model(strange, features, frame)) == ["features are known"]
    other = Constant(features.names, "0" * 16)
    assert failed(check_model(other, features, frame)) == ["trained on these definitions"]


def test_check_model_sees_slowness(frame, models):
    checks = check_model(models["constant"], features, frame, latency_budget_ms=0, bounds=QUICK)
    assert failed(checks) == ["within the latency budget"]


# %% Folders that hold no model


def edit(**changes: Any):
    "Change the description; None leaves a key out."

    def change(folder: Path) -> None:
        description = json.loads((folder / "model.json").read_text())
        changed = description | changes
        kept = {name: value for name, value in changed.items() if value is not None}
        (folder / "model.json").write_text(json.dumps(kept))

    return change


def cut(name: str, to: float):
    "Leave only the first part of a file."

    def change(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: int(len(data) * to)])

    return change


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
    for at in random.Random(1).sample(range(len(whole)), 30):
        (tmp_path / "model" / "booster.ubj").write_bytes(
            whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :]
        )
        with pytest.raises(ModelError, match="model"):
            load_model(tmp_path / "model")


@pytest.mark.parametrize("value", [1e39, -1e39])
def test_a_number_that_the_trees_take_for_infinity_is_named(value):
    "XGBoost computes in float32: in training it stops in C++, in service it would say nothing."
    frame = pl.DataFrame(dict(a=np.arange(40.0), b=[1.0] * 39 + [value], label=[True, False] * 20))
    recipe = Recipe("xgboost", dict(n_estimators=2))
    with pytest.raises(TrainingError, match="the feature 'b' is .*1e.39"):
        fit(recipe, frame, ["a", "b"])
    model = fit(recipe, frame.with_columns(b=pl.lit(1.0)), ["a", "b"])
    with pytest.raises(ModelError, match="the feature 'b'"):
        model.score(np.array([[1.0, value]]))
