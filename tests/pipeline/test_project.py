"A project that depends on the installed package: its use case runs through the kit's pipeline."

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
from bookings import write_bookings
from command import ROOT, free_port

pytestmark = pytest.mark.pipeline
CHECKOUT = (
    "mlkit",
    "pipelines",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
    "bentofile.yaml",
    "requirements-serving.txt",
)


def build_wheel(folder: Path) -> Path:
    "The wheel of this checkout, built from a copy of what it is made of."
    tree = folder / "tree"
    tree.mkdir()
    for name in CHECKOUT:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(source, tree / name)
    build = "from setuptools.build_meta import build_wheel; build_wheel('out')"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    return next((tree / "out").glob("*.whl"))


def install(wheel: Path, folder: Path) -> Path:
    "A fresh environment that has the wheel; its dependencies are those of this one."
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    subprocess.run(pip, check=True, capture_output=True)
    site = next((folder / "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin" / "mlkit"


class Project:
    "A folder with settings, a use case and a file of bookings."

    def __init__(self, folder: Path):
        self.command = install(build_wheel(folder), folder / "venv")
        self.root = folder / "shop"
        (self.root / "my_project").mkdir(parents=True)
        (self.root / "settings.ini").write_text("[mlkit]\nusecase = my_project.bookings\n")
        module = Path(__file__).with_name("bookings.py")
        shutil.copyfile(module, self.root / "my_project" / "bookings.py")
        write_bookings(self.root / "bookings.parquet")
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        own = dict(MLKIT_PORT=str(free_port()), COLUMNS="200", OMP_NUM_THREADS="1")
        self.env = {k: v for k, v in kept.items() if not k.startswith("MLKIT_")} | own

    def __call__(self, *arguments: str, expect: int = 0) -> str:
        done = subprocess.run(
            [self.command, *arguments], cwd=self.root, env=self.env, capture_output=True, text=True
        )
        assert done.returncode == expect, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout + done.stderr

    @property
    def workspace(self) -> Path:
        return self.root / "data" / "my_project.bookings" / "bookings"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    made = Project(tmp_path_factory.mktemp("project"))
    forced = ["-p", "trials=1", "-p", "limit=60", "-p", "override_gates=a tiny source, for a test"]
    made("run", "--source", "bookings.parquet", *forced)
    return made


def test_it_runs_to_the_report(project):
    summary = json.loads((project.workspace / "latest" / "summary.json").read_text())
    assert summary["rows"] == 2800
    assert summary["parity"]["compared"] == 60
    assert summary["parity"]["different"] == summary["parity"]["scores_different"] == 0
    assert set(summary["decisions"]["routes"]) == {"accept", "call"}
    assert summary["decisions"]["degraded"] == 0


def test_the_cut_is_taken_from_the_data_and_said(project):
    ingested = json.loads((project.workspace / "steps" / "01_ingest.json").read_text())["result"]
    assert ingested["cut"].startswith("2025-03-01")
    assert ingested["cut_origin"] == "taken from the data"
    assert "2025-03-01, taken from the data" in project("run")


def test_nothing_is_written_beside_the_projects_own_folders(project):
    names = {path.name for path in project.root.iterdir()}
    assert names == {"settings.ini", "my_project", "bookings.parquet", "data", "runs"}


def test_without_a_source_it_says_how_to_give_one(project):
    message = project("run", "--source", "simulator", expect=2)
    assert "has no simulator" in message and "--source" in message


def test_a_changed_use_case_is_seen(project):
    module = project.root / "my_project" / "bookings.py"
    before = module.read_text()
    module.write_text(before + "\n# another thought\n")
    try:
        assert "package changed" in project("run", "--dry-run")
    finally:
        module.write_text(before)
    assert "package changed" not in project("run", "--dry-run")


def test_a_pipeline_of_the_projects_own_wins(project):
    own = project.root / "pipelines"
    shipped = next((project.command.parents[1] / "lib").glob("python*/site-packages/mlkit/shipped"))
    shutil.copytree(shipped / "pipelines", own)
    listed = (own / "pipeline.yaml").read_text()
    (own / "pipeline.yaml").write_text(listed.partition("  - name: 08_monitor")[0])
    try:
        assert "08_monitor" not in project("run", "--dry-run")
    finally:
        shutil.rmtree(own)
    assert "08_monitor" in project("run", "--dry-run")
