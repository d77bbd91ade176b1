"""Every command with a workspace wherever it lies and whatever is left of it: done, or a sentence.

Text from outside reaches no terminal as markup or as an escape sequence.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace

import in_process
import made_workspace
import psutil
import pytest
from sqlalchemy import event
from sqlalchemy.engine import Engine

from mlkit import cli, commands_service, pipeline, release
from mlkit.decisions import read_decisions
from mlkit.etl import Logs
from mlkit.eventlog import scan
from mlkit.registry import Registry
from mlkit.review import Queue, case, cases, decide
from mlkit.usecase import load_usecase
from mlkit.workspaces import Workspace

COMMANDS = {
    "settings": [],
    "models": [],
    "audit": [],
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
    "run --only 01_ingest": [],
    "run --only 05_promote --only 06_package": [],
    "rollback model": ["--to", "1"],
    "stream --once": [],
    "serve --detach": [],
    "stop": [],
}


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    "The project as it was made; tests work on copies of it."
    folder = Path(tempfile.mkdtemp(prefix="mlkit-places-"))
    made_workspace.project(folder / "code")
    settings = made_workspace.make(folder / "made")
    (decision, *_) = read_decisions(settings.workspaces / "june" / "decisions")
    made_workspace.run_folder(settings, decision["decision_id"])
    made_workspace.package_both(settings)
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


@pytest.fixture(autouse=True)
def cheap(monkeypatch):
    "Steps run without kernels, services without models; none of them is left behind."
    monkeypatch.setattr(pipeline, "execute", in_process.execute)
    monkeypatch.setattr(release, "serve_command", in_process.serve_command)
    yield
    assert not psutil.Process().children()


class Caller:
    "Calls commands on the project in a folder, as a shell there does."

    def __init__(self, home: Path, monkeypatch, capsys):
        self.home, self.patch, self.capsys = home, monkeypatch, capsys
        for name in ("WORKSPACE", "ACTOR", "DEBUG", "ROOT"):
            monkeypatch.delenv(f"MLKIT_{name}", raising=False)
        monkeypatch.setenv("MLKIT_HOME", str(home / "data"))
        monkeypatch.setenv("MLKIT_RUNS", str(home / "runs"))
        monkeypatch.setenv("MLKIT_USECASE", made_workspace.USECASE)
        monkeypatch.setenv("MLKIT_PORT", str(free_port()))
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


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


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
    assert ended["stop"] == (0, "")
    assert sorted(str(p) for p in original.rglob("*")) == before
    assert str(Registry(call.workspace.path, "tiny").folder_of(2)).startswith(str(call.home))


@pytest.mark.parametrize("name", UNFIT)
def test_a_place_that_cannot_hold_one_is_refused_at_once(caller, name):
    call = caller(name)
    code, _, err = call("models")
    assert code == 2 and "cannot hold a workspace" in err and name in err
    assert "active" not in err, "the file that names the workspace is right"
    for words in (["run", "--dry-run"], ["run"], ["serve", "--detach"]):
        assert call(*words)[::2] == (code, err)


@contextmanager
def hidden(folder: Path) -> Iterator[None]:
    "The folder is elsewhere for a while."
    away = folder.with_name("away")
    folder.rename(away)
    yield
    away.rename(folder)


PARTS = "log state artifacts decisions policies training quarantine bentoml steps".split()
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


@pytest.mark.parametrize("part", ["log", "log/ticket/_delta_log"])
def test_a_log_that_is_gone_is_taken_in_again(caller, part):
    "The step that fills it is not up to date then."
    call = caller()
    ingesting = ("run", "--only", "01_ingest")
    assert call(*ingesting)[0] == 0
    ticket = load_usecase(made_workspace.USECASE).request
    before = scan(Logs(call.workspace.path)[ticket]).collect().height
    shutil.rmtree(call.workspace / part)
    assert "_delta_log is gone" in call("run", "--dry-run")[1]
    assert call(*ingesting)[0] == 0
    assert 0 < scan(Logs(call.workspace.path)[ticket]).collect().height <= before


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
    assert all(len(err) < 2000 for _, err in ended.values())


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
    assert {"review decide", "backfill --state", "rollback model", "serve --detach"} <= refused
    assert {name for name in COMMANDS if name.startswith("run --only")} <= refused
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
    call = caller()
    original = made / "data" / made_workspace.USECASE / "june"
    process = subprocess.Popen(["sleep", "60"], cwd=original)
    told = dict(pid=process.pid, bento="mlkit:x", host="127.0.0.1", port=1)
    (call.workspace / "service.json").write_text(json.dumps(told))
    assert call("stop")[:2] == (0, "nothing was running\n")
    assert process.poll() is None
    process.kill()
    process.wait()


def pausing(module: ModuleType, monkeypatch, meanwhile: Callable[[], None]) -> None:
    "Where a module would pause, something happens instead."
    clock = SimpleNamespace(sleep=lambda seconds: meanwhile(), monotonic=time.monotonic)
    monkeypatch.setattr(module, "time", clock)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("when, code", [(release, 130), (commands_service, 0)])
def test_a_command_that_is_ended_ends_its_service(caller, monkeypatch, when, code, number):
    "While it starts, or when it answers."
    handlers = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGHUP)}
    pausing(when, monkeypatch, lambda: os.kill(os.getpid(), number))
    call = caller()
    try:
        assert call("serve")[0] == code
    finally:
        for n, handler in handlers.items():
            signal.signal(n, handler)
    assert not (call.workspace / "service.json").exists()


@pytest.mark.parametrize("lost", ["service.json", "."])
def test_a_service_whose_workspace_goes_is_ended(caller, monkeypatch, lost):
    call = caller()
    gone = call.workspace / lost

    def lose() -> None:
        gone.unlink() if gone.is_file() else shutil.rmtree(gone, ignore_errors=True)

    pausing(commands_service, monkeypatch, lose)
    assert call("serve")[0] == 0


def test_a_disk_that_fills_while_packaging_is_said(caller, monkeypatch):
    call = caller()
    shutil.rmtree(call.workspace / "bentoml")
    output = "shutil.Error: [Errno 28] No space left on device: 'a' -> 'b'"
    failed = subprocess.CompletedProcess([], 1, "", output)
    monkeypatch.setattr(release.subprocess, "run", lambda *words, **options: failed)
    code, _, err = call("serve", "--detach")
    assert code == 2 and "bentoml: No space left" in err and "Free space" in err


def test_a_service_that_cannot_be_noted_is_ended(caller, monkeypatch):
    "Nobody could stop it later."
    call = caller()

    def full(path: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(release, "replace_text", full)
    code, _, err = call("serve", "--detach")
    assert code == 2 and "service.json: No space left" in err and "Free space" in err


# %% A verdict and its label


def test_a_verdict_whose_label_cannot_be_leaves_the_case_open(made, caller):
    from dataclasses import replace

    from mlkit.review import ReviewError

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
