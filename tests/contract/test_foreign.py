"Models trained elsewhere: taken as they are, or refused in a sentence; a bad file kills nobody."

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.ensemble import RandomForestClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from mlkit.apart import read_file
from mlkit.checks import gates
from mlkit.datasets import TrainingError, made_up_data
from mlkit.foreign import LightGBM
from mlkit.kinds import Trees
from mlkit.modelfiles import load_model, model_digest, save_model
from mlkit.models import Examples, ModelError, matrix
from mlkit.recipes import Compute, Recipe, backtest, fit, record_of
from mlkit.training import take, train

NAMES = ["a", "b", "c"]


def rows(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(count, 3)) * [1, 100, 0.01]
    y = (draw.random(count) < 1 / (1 + np.exp(2 - 1.5 * x[:, 0]))).astype(int)
    x[draw.random(x.shape) < 0.1] = np.nan
    return x, y


def graph(estimator: Any, path: Path, **options: Any) -> tuple[Any, Path]:
    x, y = rows()
    whole = make_pipeline(SimpleImputer(), estimator).fit(x, y)
    made = to_onnx(whole, x[:1].astype(np.float32), options={"zipmap": False, **options})
    path.write_bytes(made.SerializeToString())
    return whole, path


ESTIMATORS = [
    LogisticRegression(),
    RandomForestClassifier(20, max_depth=4, random_state=0),
    MLPClassifier((8,), max_iter=50, random_state=0),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda e: type(e).__name__)
def test_a_graph_scores_as_its_author_does(estimator: Any, tmp_path: Path) -> None:
    "To single precision; alone, in any batch, saved and read back with the same bits."
    theirs, path = graph(estimator, tmp_path / "model.onnx")
    ours = read_file("onnx", path, NAMES, usual=[0.0, 0.0, None])
    x, _ = rows(1000, seed=1)
    assert np.allclose(ours.score(x), theirs.predict_proba(x)[:, 1], atol=2e-6)
    alone = np.concatenate([ours.score(x[i : i + 1]) for i in range(len(x))])
    assert alone.tobytes() == ours.score(x).tobytes() == ours.score(x[::-1])[::-1].tobytes()
    digest = save_model(ours, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert back.score(x).tobytes() == ours.score(x).tobytes()
    assert back.contributions(x[:9]).tobytes() == ours.contributions(x[:9]).tobytes()
    assert save_model(back, tmp_path / "copy") == digest == model_digest(tmp_path / "model")


def network(path: Path, outputs: int = 1, number: int = TensorProto.FLOAT, **init: Any) -> Path:
    "Two layers, as PyTorch exports them: named input, open batch, logits."
    kind = helper.tensor_dtype_to_np_dtype(number)
    draw = np.random.default_rng(5)
    weights = dict(w1=draw.normal(size=(3, 4)), w2=draw.normal(size=(4, outputs)))
    tensors = [numpy_helper.from_array(w.astype(kind), name) for name, w in weights.items()]
    nodes = [
        helper.make_node("MatMul", ["input", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("input", number, ["batch", 3])
    gives = helper.make_tensor_value_info("logits", number, ["batch", outputs])
    made = helper.make_model(
        helper.make_graph(nodes, "net", [given], [gives], tensors),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save_model(made, path, **init)
    return path


@pytest.mark.parametrize("number", [TensorProto.FLOAT, TensorProto.DOUBLE])
def test_a_margin_is_taken_as_it_is(number: int, tmp_path: Path) -> None:
    model = read_file("onnx", network(tmp_path / "n.onnx", number=number), NAMES, gives="margin")
    x = rows()[0]
    known = x[~np.isnan(x).any(axis=1)]
    [w1, w2] = [numpy_helper.to_array(t) for t in onnx.load(tmp_path / "n.onnx").graph.initializer]
    expected = np.maximum(known @ w1.astype(float), 0) @ w2.astype(float)
    assert np.allclose(model.margin(known), expected[:, 0], rtol=1e-4, atol=1e-3)


def test_what_a_graph_gives_is_said_and_not_guessed(tmp_path: Path) -> None:
    one, three = network(tmp_path / "one.onnx"), network(tmp_path / "three.onnx", outputs=3)
    with pytest.raises(ModelError, match="--gives probability, or --gives margin"):
        read_file("onnx", one, NAMES)
    with pytest.raises(ModelError, match="'score'.*is a probability or a margin"):
        read_file("onnx", one, NAMES, gives="score")
    with pytest.raises(ModelError, match="has 3 columns"):
        read_file("onnx", three, NAMES, gives="margin")
    with pytest.raises(ModelError, match="has the outputs logits"):
        read_file("onnx", one, NAMES, gives="margin", output="probabilities")
    with pytest.raises(ModelError, match="takes 3 features, and 2 are named"):
        read_file("onnx", one, NAMES[:2], gives="margin")
    with pytest.raises(ModelError, match="as a probability"):
        read_file("onnx", one, NAMES, gives="probability")


def test_a_graph_with_dicts_is_told_how_to_convert(tmp_path: Path) -> None:
    x, y = rows()
    whole = make_pipeline(SimpleImputer(), LogisticRegression()).fit(x, y)
    path = tmp_path / "dicts.onnx"
    path.write_bytes(to_onnx(whole, x[:1].astype(np.float32)).SerializeToString())
    with pytest.raises(ModelError, match="'zipmap': False"):
        read_file("onnx", path, NAMES)


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    "They could be changed, or be any file of the machine."
    path = network(
        tmp_path / "big.onnx", save_as_external_data=True, location="weights", size_threshold=0
    )
    assert (tmp_path / "weights").exists()
    with pytest.raises(ModelError, match="keeps weights in other files"):
        read_file("onnx", path, NAMES, gives="margin")


def test_numbers_beyond_single_precision_are_refused(tmp_path: Path) -> None:
    model = read_file("onnx", network(tmp_path / "n.onnx"), NAMES, gives="margin")
    with pytest.raises(ModelError, match="'b' is 1e\\+39"):
        model.score(np.array([[0.0, 1e39, 0.0]]))


# %% LightGBM, and files that are damaged


def trees(tmp_path: Path) -> tuple[lightgbm.Booster, Path]:
    x, y = rows(2000)
    settings = dict(objective="binary", num_leaves=7, verbosity=-1, num_threads=1)
    made = lightgbm.train(settings, lightgbm.Dataset(x, y, params=dict(verbosity=-1)), 20)
    made.save_model(str(tmp_path / "trees.txt"))
    return made, tmp_path / "trees.txt"


def test_trees_score_as_their_author_does(tmp_path: Path) -> None:
    theirs, path = trees(tmp_path)
    ours = read_file("lightgbm", path, NAMES)
    x, _ = rows(500, seed=2)
    assert np.allclose(ours.score(x), theirs.predict(x), atol=1e-12)
    rest = ours.margin(x) - ours.contributions(x).sum(axis=1)
    assert np.ptp(rest) < 1e-9


@pytest.mark.parametrize("part", [0, 0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("how", ["cut off", "a hole", "another digit"])
def test_damaged_trees_are_refused_or_harmless(part: float, how: str, tmp_path: Path) -> None:
    "LightGBM ends the process over some; here another process dies of it, or nothing does."
    _, path = trees(tmp_path)
    text = path.read_text()
    at = int(part * text.index("end of trees"))
    damaged = dict(
        [
            ("cut off", text[:at]),
            ("a hole", text[:at] + text[at + 200 :]),
            ("another digit", text[:at] + text[at:].replace("2", "9", 3)),
        ]
    )[how]
    path.write_text(damaged)
    try:
        model = read_file("lightgbm", path, NAMES)
    except ModelError as e:
        assert "\n" not in str(e)
        return
    assert np.isfinite(model.score(np.zeros((1, 3)))).all()


@pytest.mark.parametrize("content", [b"", b"\x80\x04pickle", b"tree\n", b"\xff\xfe\x00"])
@pytest.mark.parametrize("kind", ["onnx", "lightgbm", "xgboost"])
def test_what_is_no_model_is_refused(kind: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(ModelError):
        read_file(kind, path, NAMES)
    with pytest.raises(ModelError, match="there is no file"):
        read_file(kind, tmp_path / "other", NAMES)


def test_a_model_of_several_answers_is_refused(tmp_path: Path) -> None:
    x, _ = rows()
    settings = dict(objective="regression", verbosity=-1, num_threads=1)
    data = lightgbm.Dataset(x, np.arange(400.0), params=dict(verbosity=-1))
    lightgbm.train(settings, data, 5).save_model(str(tmp_path / "sums.txt"))
    with pytest.raises(ModelError, match="the objective is regression"):
        read_file("lightgbm", tmp_path / "sums.txt", NAMES)


def test_a_kind_that_takes_no_files_says_so(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    with pytest.raises(ModelError, match="'logistic' is trained here"):
        read_file("logistic", tmp_path / "f", NAMES)


@pytest.mark.parametrize("kind", [Trees, LightGBM])
def test_one_or_two_threads_give_the_same_file(kind: Any, tmp_path: Path) -> None:
    x, y = rows(3000)
    digests = set()
    for threads in (1, 2, 1):
        model = kind(NAMES)
        model.fit(Examples(x, y, tuple(NAMES), threads=threads, seed=3), dict(kind.start))
        digests.add(save_model(model, tmp_path / str(threads)))
    assert len(digests) == 1


# %% A finished model is judged


@pytest.fixture(scope="module")
def data() -> Any:
    return made_up_data(folds=4)


def elsewhere(data: Any, until: str) -> Any:
    "A model without a recipe, fitted on all the rows before a moment."
    frame = data.folds[-1].train
    model = fit(Recipe("logistic"), frame, data.inputs, compute=Compute(1))
    model.about = dict(file="line.bin", digest="0" * 16, trained_until=until)
    return model


def test_a_model_of_here_is_judged_by_its_recipe(data: Any) -> None:
    model = train(Recipe("logistic"), data, compute=Compute(1)).model
    model.about = dict(recipe=dict(kind="logistic"))
    found, expected = record_of(model, data), backtest(Recipe("logistic"), data)
    assert found.margins.tobytes() == expected.margins.tobytes()


def test_a_model_from_elsewhere_is_judged_by_what_it_has_not_seen(data: Any) -> None:
    cuts = [fold.cut for fold in data.folds]
    model = elsewhere(data, cuts[-1].isoformat())
    assert len(record_of(model, data).by_fold) == len(cuts) > 2
    x = matrix(data.folds[0].served, data.inputs)
    own = record_of(model, data)
    assert np.array_equal(own.margins[own.fold == 0], model.margin(x))
    later = elsewhere(data, cuts[1].isoformat())
    assert len(record_of(later, data).by_fold) == 2
    for until in (cuts[0] + timedelta(days=1), cuts[0]):
        with pytest.raises(TrainingError, match="two are needed to judge it"):
            record_of(elsewhere(data, until.isoformat()), data)
    unknown = elsewhere(data, "")
    with pytest.raises(TrainingError, match="nobody knows when"):
        record_of(unknown, data)


def test_records_of_fewer_folds_are_compared_on_those(data: Any) -> None:
    cuts = [fold.cut for fold in data.folds]
    few, many = (record_of(elsewhere(data, cuts[k].isoformat()), data) for k in (1, -1))
    assert few.latest(2).entity.tolist() == many.latest(2).entity.tolist()
    base = backtest(Recipe("constant"), data)
    [*_, compared] = gates([], few, base, many)
    assert compared.name == "not worse than the champion"
    assert compared.passed, compared


def test_a_model_is_taken_as_it_is_or_calibrated_anew(data: Any) -> None:
    cut = data.folds[-1].cut.isoformat()
    model = elsewhere(data, cut)
    model.calibration = (0.3, 1.0)
    as_it_is = take(model, data, compute=Compute(1))
    assert as_it_is.model.calibration == (0.3, 1.0)
    record, base = (as_it_is.backtests[name] for name in ("candidate", "constant"))
    served = gates([], record, base, calibration=as_it_is.model.calibration)
    assert [g.passed for g in served if g.name == "calibrated as it is served"] == [False]
    anew = take(model, data, recalibrate=True, compute=Compute(1))
    mended = gates([], record, base, calibration=anew.model.calibration)
    assert [g.passed for g in mended if g.name == "calibrated as it is served"] == [True]
