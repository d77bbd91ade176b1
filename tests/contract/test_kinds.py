"A kind of model is one class: defined here, or in another package, it goes through everything."

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from mlkit.checks import check_model, gates
from mlkit.datasets import made_up_data
from mlkit.kinds import Constant, Trees
from mlkit.modelfiles import find_kind, known_kinds, load_model, model_digest, save_model
from mlkit.models import Examples, Model, ModelError, contributions
from mlkit.recipes import Compute, Recipe, TrainingError
from mlkit.steps import PipelineError, parameters_of
from mlkit.training import train
from mlkit.tuning import Search

ROOT = Path(__file__).resolve().parents[2]


class Stump(Model):
    "One question about one feature; what it learned lies in a file of its own."

    kind = "stump in a test"
    start = dict(column=1, quantile=0.5)
    files = ("stump.csv",)

    @staticmethod
    def search_space(trial: Any) -> dict[str, Any]:
        return dict(
            column=trial.suggest_int("column", 0, 1),
            quantile=trial.suggest_float("quantile", 0.1, 0.99),
        )

    def fit(self, examples: Examples, params: dict[str, Any]) -> None:
        column = examples.x[:, params["column"]]
        at = float(np.nanquantile(column, params["quantile"]))
        above = column > at
        low, high = (float(np.log(examples.y[part].mean() + 1e-4)) for part in (~above, above))
        self.learned = [float(params["column"]), at, low, high]

    def margin(self, x: np.ndarray) -> np.ndarray:
        column, at, low, high = self.learned
        return np.where(x[:, int(column)] > at, high, low)

    def contributions(self, x: np.ndarray) -> np.ndarray:
        moved = np.zeros(x.shape)
        moved[:, int(self.learned[0])] = self.margin(x) - self.learned[2]
        return moved

    def save_files(self, folder: Path) -> None:
        (folder / "stump.csv").write_text(",".join(map(repr, self.learned)))

    def load_files(self, folder: Path) -> None:
        self.learned = [float(part) for part in (folder / "stump.csv").read_text().split(",")]


def test_a_kind_of_ones_own_goes_through_everything(tmp_path):
    "Search, imbalance, calibration, fit; save, load; contract, gates; contributions."
    data = made_up_data()
    search = Search(8, tmp_path / "studies.db", "stumps")
    trained = train(Recipe(Stump.kind), data, search, Compute(threads=1))
    assert trained.trials[0]["column"] == 1
    assert trained.recipe.params["column"] == 0, "the search finds the feature that tells"

    digest = save_model(trained.model, tmp_path / "model")
    back = load_model(tmp_path / "model")
    assert type(back) is Stump
    assert save_model(back, tmp_path / "copy") == digest == model_digest(tmp_path / "model")

    feature_set = SimpleNamespace(inputs=list(data.inputs), hash="")
    checks = check_model(back, feature_set, data.features)
    assert not [check for check in checks if not check.passed]
    records = trained.backtests
    gated = gates(checks, records["candidate"], records["constant"], champion=records["candidate"])
    assert not [gate for gate in gated if not gate.passed]

    above = np.array([[9.0, 0.0]])
    [moved] = contributions(back, dict(signal=9.0, noise=0.0), above)
    assert moved["feature"] == "signal"
    assert moved["effect"] > 0


# %% Names


def test_a_name_that_is_taken_is_refused():
    with pytest.raises(ModelError, match="'xgboost' is taken by mlkit.kinds.Trees"):

        class Forest(Model):
            kind = "xgboost"

    assert Model.kinds["xgboost"] is Trees


def test_a_kind_that_extends_another_has_a_name_of_its_own():
    "Saved under the name of the other, it would come back as the other."
    with pytest.raises(ModelError, match="extends the kind 'constant' and has no name of its own"):

        class Higher(Constant):
            pass


@pytest.mark.parametrize("name", ["", " ", 3, None, "../x", "a/b", ".hidden", "x" * 61, ["a"]])
def test_a_name_that_is_no_plain_word_is_refused(name):
    before = dict(Model.kinds)
    with pytest.raises(ModelError, match="Odd: kind = .*letters, digits"):
        type("Odd", (Constant,), dict(kind=name))
    assert Model.kinds == before


@pytest.mark.parametrize(
    "files",
    [("../x",), ("/tmp/x",), ("a/b",), ("model.json",), ("..",), ("",), "a.bin", (3,), None],
)
def test_files_that_lie_elsewhere_are_refused(files):
    with pytest.raises(ModelError, match="Odd: files = .*plain names"):
        type("Odd", (Constant,), dict(kind="odd in a test", files=files))
    assert "odd in a test" not in Model.kinds


@pytest.mark.parametrize("missing", ["fit", "margin"])
def test_a_kind_that_could_not_be_trained_or_asked_is_refused(missing):
    methods = dict(fit=Constant.fit, margin=Constant.margin)
    del methods[missing]
    with pytest.raises(ModelError, match=f"Odd has no `{missing}`"):
        type("Odd", (Model,), dict(kind="odd in a test", **methods))
    assert "odd in a test" not in Model.kinds


def test_the_same_class_defined_once_more_takes_its_own_place():
    "As in a notebook cell that is run twice."

    def define() -> type[Model]:
        class Twice(Constant):
            kind = "twice in a test"

        return Twice

    first, second = define(), define()
    assert first is not second
    assert Model.kinds["twice in a test"] is second
    with pytest.raises(ModelError, match="no registered kind"):
        save_model(first(["a"]), "unused")


def test_a_base_for_kinds_is_no_kind():
    class Neighbours(Model):
        "Has no name, so that it is registered nowhere."

    assert Neighbours not in Model.kinds.values()
    with pytest.raises(ModelError, match="no registered kind"):
        save_model(Neighbours(["a"]), "unused")


# %% Kinds of other packages

PLUGIN = '''
from mlkit.kinds import Constant

class Even(Constant):
    "As likely as not."

    kind = "even"

    def fit(self, examples, params):
        self.z = 0.0
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    "Installs a tiny package that offers a kind of model."
    installed = []

    def install(name: str, source: str, offers: str) -> None:
        root = tmp_path / name
        about = root / f"{name}-1.0.dist-info"
        about.mkdir(parents=True)
        (root / f"{name}.py").write_text(source)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (about / "entry_points.txt").write_text(f"[mlkit.models]\n{offers}\n")
        monkeypatch.syspath_prepend(str(root))
        installed.append(name)

    before = dict(Model.kinds)
    yield install
    for name in installed:
        sys.modules.pop(name, None)
    Model.kinds.clear()
    Model.kinds.update(before)


def test_a_kind_of_another_package_is_loaded_when_it_is_asked_for(package, tmp_path):
    "By its name in a recipe, and by a saved model."
    package("evens", PLUGIN, "even = evens:Even")
    assert "even" in known_kinds()
    assert "evens" not in sys.modules
    trained = train(Recipe("even"), made_up_data(rows=3000), compute=Compute(threads=1))
    assert type(trained.model).__module__ == "evens"
    save_model(trained.model, tmp_path / "model")

    Model.kinds.pop("even")
    sys.modules.pop("evens")
    back = load_model(tmp_path / "model")
    assert back.kind == "even"
    assert type(back) is Model.kinds["even"]


def test_the_pipeline_takes_every_kind_there_is(package):
    "And refuses another before anything is run."
    package("evens", PLUGIN, "even = evens:Even")
    found = parameters_of(ROOT / "pipelines" / "03_train.ipynb")
    [kind] = [parameter for parameter in found if parameter.name == "kind"]
    assert kind.read("even") == "even"
    assert kind.read(Stump.kind) == Stump.kind
    with pytest.raises(PipelineError, match="one of .*even, lightgbm, logistic"):
        kind.read("oracle")


@pytest.mark.parametrize(
    "source, offers, message",
    [
        ("import nowhere_to_be_found", "even = broken:Even", "No module named 'nowhere_to_be"),
        ("raise OSError('no licence')", "even = broken:Even", "OSError: no licence"),
        (PLUGIN, "even = broken:Odd", "no attribute 'Odd'"),
        (PLUGIN, "even = broken:Constant", "no model with kind = 'even'"),
        ("Even = 3", "even = broken:Even", "no model with kind = 'even'"),
        (PLUGIN.replace('"even"', '"logistic"'), "even = broken:Even", "'logistic' is taken by"),
    ],
)
def test_a_broken_package_is_named(package, source, offers, message):
    package("broken", source, offers)
    with pytest.raises(ModelError, match=message) as refused:
        find_kind("even")
    assert "the package broken" in str(refused.value)
    assert "Mend broken or uninstall it" in str(refused.value)
    assert find_kind("xgboost") is Trees, "the others are none the worse for it"


def test_an_unknown_kind_is_refused_with_those_that_there_are(package):
    package("evens", PLUGIN, "even = evens:Even")
    with pytest.raises(
        ModelError, match="'oracle'; there are .*constant, even, lightgbm, logistic"
    ):
        Recipe("oracle")


@pytest.mark.parametrize("kind", [["constant"], None, 3])
def test_a_kind_that_is_no_name_is_refused(kind):
    with pytest.raises(ModelError, match="no kind of model is called .*there are"):
        Recipe(kind)


@pytest.mark.parametrize("params", [3, "max_depth=4", None, [("max_depth", 4)]])
def test_parameters_that_are_no_dict_are_refused(params):
    with pytest.raises(TrainingError, match="params is a dict, name to value"):
        Recipe(params=params)


# %% Files


def test_a_folder_with_other_files_is_refused(tmp_path):
    "And the digest covers them, wherever in the folder they lie."
    digest = save_model(Constant(["a"]), tmp_path)
    (tmp_path / "more").mkdir()
    assert model_digest(tmp_path) == digest
    (tmp_path / "more" / "notes.txt").write_text("retrained")
    assert model_digest(tmp_path) != digest
    for refuse in (load_model, lambda folder: save_model(Constant(["a"]), folder)):
        with pytest.raises(ModelError, match="no part of the model: more/notes.txt"):
            refuse(tmp_path)


def test_a_model_takes_the_place_of_another(tmp_path):
    "Its files go with it."
    stump = Stump(["a"])
    stump.learned = [0.0, 0.5, -1.0, 1.0]
    save_model(stump, tmp_path)
    save_model(Constant(["a"]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    assert load_model(tmp_path).kind == "constant"


class Unwritable(Constant):
    kind = "unwritable in a test"

    def state(self) -> dict[str, Any]:
        return dict(z=np.float32(self.z))


@pytest.mark.parametrize(
    "model, part",
    [
        (Constant(["a"], about=dict(at=datetime(2025, 1, 1))), "about.*datetime"),
        (Constant(["a"], about={1: 2, "a": 3}), "about.*str"),
        (Unwritable(["a"]), "state.*float32"),
    ],
)
def test_what_does_not_fit_json_is_refused_and_the_old_model_stays(tmp_path, model, part):
    digest = save_model(Constant(["a"]), tmp_path)
    with pytest.raises(ModelError, match=part):
        save_model(model, tmp_path)
    assert model_digest(tmp_path) == digest


def test_a_file_that_is_missing_or_another_is_refused(tmp_path):
    stump = Stump(["a"])
    stump.learned = [0.0, 0.5, -1.0, 1.0]
    save_model(stump, tmp_path)
    (tmp_path / "stump.csv").write_text("0.0,0.5,-1.0,2.0")
    with pytest.raises(ModelError, match="not the files that were saved: stump.csv"):
        load_model(tmp_path)
    (tmp_path / "stump.csv").unlink()
    with pytest.raises(ModelError, match="lacks a part of the model: stump.csv"):
        load_model(tmp_path)


RAN = []


class Trap:
    "Runs when it is unpickled."

    def __reduce__(self):
        return RAN.append, (1,)


@pytest.mark.parametrize("where", ["file", "archive", "name"])
def test_a_pickle_is_neither_saved_nor_read(where, tmp_path):
    "Under any name, and within an archive; what it would run is not run."
    import pickle
    import zipfile

    def write(path: Path) -> None:
        if where == "archive":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", pickle.dumps(Trap()))
        else:
            path.write_bytes(pickle.dumps(Trap()) if where == "file" else b"harmless")

    class Pickled(Constant):
        kind = f"pickled as {where} in a test"
        files = ("weights.pkl" if where == "name" else "weights.bin",)

        def save_files(self, folder: Path) -> None:
            write(folder / self.files[0])

    with pytest.raises(ModelError, match="is a pickle"):
        save_model(Pickled(["a"]), tmp_path / "model")
    assert not (tmp_path / "model" / "model.json").exists()
    assert not RAN


def test_saving_over_a_model_deletes_nothing_outside_its_folder(tmp_path):
    neighbour, folder = tmp_path / "m", tmp_path / "n"
    save_model(Constant(["a"]), neighbour)
    folder.mkdir()
    (folder / "model.json").write_text('{"files": {"../m/model.json": "1"}}')
    save_model(Constant(["a"]), folder)
    assert (neighbour / "model.json").exists()


def test_margins_of_another_shape_are_no_scores():
    class TwoScores(Constant):
        kind = "two-scores"

        def margin(self, x):
            return np.array([-9.0, 9.0])

    with pytest.raises(ModelError, match="margins of shape"):
        TwoScores(["a"]).score(np.zeros((1, 1)))
    del Model.kinds["two-scores"]
