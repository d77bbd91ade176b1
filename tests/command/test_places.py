"""Every command with a workspace wherever it lies and whatever is left of it: done, or a sentence.

Text from outside reaches no terminal as markup or as an escape sequence.
"""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import made_workspace
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from mlkit import cli
from mlkit.decisions import read_decisions
from mlkit.registry import Registry
from mlkit.review import Queue, case, cases, decide
from mlkit.settings import Workspace

COMMANDS = {
    "settings": [],
    "models": [],
    "audit": [],
    "stop": [],
    "features": [],
    "review list": [],
    "review show": ["ID"],
    "review decide": ["ID", "--positive", "--note", made_workspace.NASTY],
    "trace": ["ID"],
    "trace --json": ["ID"],
    "backfill --state": [],
    "backfill --features": [],
    "run --dry-run": [],
    "run --dry-run --advance": [],
    "rollback model": ["--to", "1"],
    "stream --once": [],
}


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    "The project as it was made; tests work on copies of it."
    folder = Path(tempfile.mkdtemp(prefix="mlkit-places-"))
    made_workspace.project(folder / "code")
    settings = made_workspace.make(folder / "made")
    (decision, *_) = read_decisions(settings.workspaces / "june" / "decisions")
    made_workspace.run_folder(settings, decision["decision_id"])
    yield folder / "made"
    shutil.rmtree(folder)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    "Whoever waits for a lock gives up at once."

    def shorten(connection, cursor, statement, parameters, context, many):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 20"), parameters

    def connect(*given, **options):
        return original(*given, **{**options, "timeout": 0.05})

    original = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", connect)
    event.listen(Engine, "before_cursor_execute", shorten, retval=True)
    yield
    event.remove(Engine, "before_cursor_execute", shorten)


class Caller:
    "Calls commands on the project in a folder, as a shell there does."

    def __init__(self, home: Path, monkeypatch, capsys):
        self.home, self.patch, self.capsys = home, monkeypatch, capsys
        for name in ("WORKSPACE", "ACTOR", "DEBUG", "ROOT"):
            monkeypatch.delenv(f"MLKIT_{name}", raising=False)
        monkeypatch.setenv("MLKIT_HOME", str(home / "data"))
        monkeypatch.setenv("MLKIT_RUNS", str(home / "runs"))
        monkeypatch.setenv("MLKIT_USECASE", made_workspace.USECASE)
        monkeypatch.chdir("/")

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.home / "data" / made_workspace.USECASE, "june")

    def __call__(self, *words: str) -> tuple[int, str, str]:
        "Exit code, what was printed, what went wrong. A traceback is raised as it is."
        self.patch.setattr(sys, "argv", ["mlkit", *words])
        self.capsys.readouterr()
        try:
            cli.main()
            code = 0
        except SystemExit as e:
            code = e.code or 0
        return code, *self.capsys.readouterr()


@pytest.fixture
def caller(made, tmp_path_factory, monkeypatch, capsys) -> Callable[[str], Caller]:
    "A copy of the project in a folder of this name."
    folder = Path(tempfile.mkdtemp(prefix="mlkit-place-"))
    folder.chmod(0o755)
    yield lambda name="copy": Caller(made_workspace.copy(made, folder / name), monkeypatch, capsys)
    shutil.rmtree(folder)


def every_command(call: Caller, decision: str) -> dict[str, tuple[int, str]]:
    "What each ends with, and what it says; anything but success and a sentence fails."
    ended = {}
    for name, options in COMMANDS.items():
        words = [*name.split(), *(decision if word == "ID" else word for word in options)]
        code, out, err = call(*words)
        assert code in (0, 1, 2), (name, out, err)
        assert "Traceback" not in out + err, (name, err)
        if code:
            assert len(err.split()) > 5, (name, err)
        ended[name] = code, err
    return ended


def first_decision(made: Path) -> str:
    (found, *_) = read_decisions(made / "data" / made_workspace.USECASE / "june" / "decisions")
    return found["decision_id"]


WELL = ["copy", "with space", "r{1}{x}", "日本 é", "a#b", "100%", "it's \"so\"; a&b", "-x"]
UNFIT = ["x[1]", "q?b", "100%25", "$HOME"]  # for Delta, SQLite, BentoML


@pytest.mark.parametrize("name", WELL)
def test_a_copy_is_a_workspace_wherever_it_lies(made, caller, name):
    "The original is not touched, and nothing is read from it."
    original = made / "data" / made_workspace.USECASE / "june"
    before = sorted(str(p) for p in original.rglob("*"))
    call = caller(name)
    with hidden(original):
        ended = every_command(call, first_decision(call.home))
    failed = {n: err for n, (code, err) in ended.items() if code}
    assert set(failed) == {"run --dry-run --advance"}, failed
    assert sorted(str(p) for p in original.rglob("*")) == before
    assert str(Registry(call.workspace.path, "tiny").folder_of(2)).startswith(str(call.home))


@pytest.mark.parametrize("name", UNFIT)
def test_a_place_that_cannot_hold_one_is_refused_at_once(caller, name):
    call = caller(name)
    code, _, err = call("models")
    assert code == 2 and "cannot hold a workspace" in err and name in err
    assert call("run", "--dry-run")[0] == 2


@contextmanager
def hidden(folder: Path) -> Iterator[None]:
    "The folder is elsewhere for a while."
    away = folder.with_name("away")
    folder.rename(away)
    yield
    away.rename(folder)


PARTS = "log state artifacts decisions policies training quarantine".split()
FILES = "mlflow.db review.db parameters.json steps/01_ingest.json sources.jsonl audit.jsonl".split()


@pytest.mark.parametrize("part", [*PARTS, *FILES, ".", "log/ticket/_delta_log"])
def test_half_deleted(made, caller, part):
    call = caller()
    found = call.workspace / part
    if found.is_dir():
        shutil.rmtree(found)
    else:
        found.unlink(missing_ok=True)
    every_command(call, first_decision(made))


@pytest.mark.parametrize("content", [b"", b'{"resu', b"\xff\x00garbage" * 999], ids=len)
@pytest.mark.parametrize("part", [*FILES, "../active", "service.json", "latest/summary.json"])
def test_empty_or_half_written(made, caller, part, content):
    call = caller()
    (call.workspace / part).parent.mkdir(exist_ok=True)
    (call.workspace / part).write_bytes(content)
    ended = every_command(call, first_decision(made))
    named = [err for _, err in ended.values() if Path(part).name in err]
    shown = ("latest/summary.json", "sources.jsonl", "audit.jsonl", "review.db")
    assert named or part in shown and not content or part == "latest/summary.json"


def test_a_damaged_decision_is_named(made, caller):
    call = caller()
    (path,) = (call.workspace / "decisions").glob("*.jsonl")
    path.write_bytes(b"not a decision\n" + path.read_bytes())
    (call.workspace / "review.db").unlink()
    code, _, err = call("review", "list")
    assert code == 2 and path.name in err and "remove the line" in err


@pytest.mark.parametrize("database", ["mlflow.db", "review.db"])
def test_a_locked_database_is_said(made, caller, database):
    call = caller()
    other = sqlite3.connect(call.workspace / database, isolation_level=None)
    other.execute("begin exclusive")
    ended = every_command(call, first_decision(made))
    other.execute("rollback")
    other.close()
    said = [err for code, err in ended.values() if code and "locked" in err]
    assert said and all(database in err for err in said)


def test_a_full_disk_is_said(made, caller):
    "No file may grow."
    call = caller()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        every_command(call, first_decision(made))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can work as somebody else")
@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_somebody_elses_workspace_is_said(made, caller, mode):
    "Not to be opened, or to be read only."
    call, decision = caller(), first_decision(made)
    call.workspace.path.chmod(mode)
    with ExitStack() as root_again:
        root_again.callback(os.seteuid, 0)
        os.seteuid(54321)
        ended = every_command(call, decision)
    refused = {name for name, (code, _) in ended.items() if code}
    assert {"review decide", "backfill --state", "rollback model"} <= refused
    assert "settings" not in refused


# %% Text from outside

SHOWING = [
    "models",
    "audit",
    "review list",
    "review show",
    "trace",
    "review decide",
    "run --dry-run",
]


def test_text_from_outside_is_only_text(made, caller):
    call, decision = caller(), first_decision(made)
    decided = [*COMMANDS["review decide"]]
    for name in [*SHOWING, "audit", "review show"]:
        options = decided if name == "review decide" else COMMANDS[name]
        words = [*name.split(), *(decision if word == "ID" else word for word in options)]
        code, out, err = call(*words)
        assert code == 0, (name, err)
        assert not set("\x1b\x07\u202e") & set(out + err), name
        if name not in ("models", "run --dry-run"):
            assert "[/x]" in out.replace("\n", " ") and ":key:" in out, name


def test_an_error_with_such_text_is_only_text(caller):
    call = caller()
    code, out, err = call("review", "show", made_workspace.NASTY)
    assert code == 2 and "[/x] [red]" in err and "\x1b" not in err + out


def test_a_line_break_makes_no_second_entry(caller):
    "Promotions gave a reason of two lines."
    _, out, _ = caller()("audit")
    lines = [line for line in out.splitlines() if line.strip()]
    assert len(lines) == 2 and all("promote model" in line for line in lines)


# %% Names of workspaces


@pytest.mark.parametrize("name", ["..", ".", "active", "a/b", "/etc", "x" * 101, "a b", "é", "-"])
def test_a_name_is_a_name(caller, monkeypatch, name):
    call = caller()
    monkeypatch.setenv("MLKIT_WORKSPACE", name)
    for words in (["models"], ["run", "--dry-run"], ["stream", "--once"], ["stop"]):
        code, out, err = call(*words)
        assert code == 2 and "workspace" in err, (words, err)
    made = sorted(p.name for p in (call.home / "data" / made_workspace.USECASE).iterdir())
    assert made == ["active", "june"]


def test_only_the_owner_may_read(made):
    "The workspace and the run are for their owner alone, decisions and queue even when copied."
    folder = made / "data" / made_workspace.USECASE / "june"
    private = [folder / "review.db", *(folder / "decisions").glob("*")]
    assert {p.stat().st_mode & 0o777 for p in private} == {0o600}
    assert folder.stat().st_mode & 0o777 == 0o700


def test_no_lock_files_pile_up(caller):
    call = caller()
    before = None
    for _ in range(3):
        assert call("backfill", "--state")[0] == 0
        found = sorted(p.name for p in (call.workspace / "state").iterdir())
        assert before in (None, found)
        before = found
    assert not [name for name in before if "loading" in name]


# %% A service of another workspace


def test_a_copy_does_not_stop_the_originals_service(made, caller):
    "Nor a stranger that has got the number of a service that is gone."
    import json
    import subprocess

    call = caller()
    original = made / "data" / made_workspace.USECASE / "june"
    process = subprocess.Popen(["sleep", "60"], cwd=original)
    told = dict(pid=process.pid, bento="mlkit:x", host="127.0.0.1", port=1)
    (call.workspace / "service.json").write_text(json.dumps(told))
    assert call("stop")[:2] == (0, "nothing was running\n")
    assert process.poll() is None
    process.kill()
    process.wait()


# %% A verdict and its label


def test_a_verdict_whose_label_cannot_be_leaves_the_case_open(made, caller):
    from dataclasses import replace

    from mlkit.etl import Logs
    from mlkit.review import ReviewError
    from mlkit.usecase import load_usecase

    call, usecase = caller(), load_usecase(made_workspace.USECASE)
    queue, logs = Queue(call.workspace.path), Logs(call.workspace.path)
    known = cases(queue)[0]["decision_id"]

    def review(request, positive, at):
        "Longer than an id may be, for these requests."
        end = "/review" if request["event_id"] == usecase.example["event_id"] else "x" * 200
        base = dict(event_id=request["event_id"] + end, event_time=at, account="a")
        return base | dict(ticket=request["event_id"], escalated=positive)

    able = replace(usecase, review=review)
    with pytest.raises(ReviewError, match="stays open: .*longer than 200"):
        decide(queue, able, logs, known, positive=True)
    assert case(queue, known)["status"] == "open"
    assert "longer" not in str(logs[usecase.labels.stream].quarantine.read()["reason"].to_list())
