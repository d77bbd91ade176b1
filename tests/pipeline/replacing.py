"""The replaceability test: any model takes the place of any other, worse or better.

    make replaceability

Each candidate goes through the unchanged pipeline, registry, bento and running service, while
requests come in; what must not pass is refused at the gate, and the service answers on.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from command import ROOT, Kit

from mlkit.usecase import load_usecase

FROZEN = ("bentofile.yaml", "requirements-serving.txt")
FOLDERS = {"pipelines": "*", "terraform": "*.tf", "mlkit": "*.py"}


def infrastructure() -> str:
    "Names the content of everything that must not change."
    paths = [ROOT / name for name in FROZEN]
    for folder, pattern in FOLDERS.items():
        paths += sorted((ROOT / folder).rglob(pattern))
    digest = hashlib.sha256()
    for path in paths:
        if path.is_file():
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()


# %% Requests that keep coming


@dataclass
class Load:
    "A client that asks again and again, and what it was told."

    port: int
    body: str
    answers: list[tuple[float, int]] = field(default_factory=list)  # when, by which version
    refused: list[tuple[float, str]] = field(default_factory=list)  # when, why
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self.stopped.wait(0.05):
            try:
                status, answer = call(self.port, "POST", "/decide", self.body)
                if status != 200 or answer["degraded"]:
                    self.refused.append((time.time(), f"{status}: {answer}"))
                else:
                    self.answers.append((time.time(), answer["model"]["version"]))
            except (OSError, http.client.HTTPException) as e:
                self.refused.append((time.time(), f"{type(e).__name__}: {e}"))


def call(port: int, method: str, path: str, body: str | None = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


@contextmanager
def under_load(port: int, body: str) -> Iterator[Load]:
    load = Load(port, body)
    thread = threading.Thread(target=load.run)
    thread.start()
    try:
        yield load
    finally:
        load.stopped.set()
        thread.join()


# %% Candidates


@dataclass(frozen=True)
class Candidate:
    "A model, and how it comes."

    name: str
    kind: str
    file: str = ""  # one of `candidates`; empty: trained by the pipeline
    trials: int = 0
    passes: bool = True  # is it to be promoted? over failed gates, if need be
    refused_for: str = ""  # what the refusal names


def catalogue(folder: Path) -> str:
    "The defects, offered by a package as its kinds: a folder for the import path."
    from mlkit.defects import REFUSED_BY, Random

    kinds = [*REFUSED_BY, Random]
    about = folder / "plugins" / "defects-1.0.dist-info"
    about.mkdir(parents=True, exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: defects\nVersion: 1.0\n")
    listed = "\n".join(f"{kind.kind} = {kind.__module__}:{kind.__name__}" for kind in kinds)
    (about / "entry_points.txt").write_text(f"[mlkit.models]\n{listed}\n")
    return str(about.parent)


@dataclass
class Replacing:
    "A served workspace in which models take each other's places."

    kit: Kit
    usecase: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def port(self) -> int:
        return int(self.kit.env["MLKIT_PORT"])

    def body(self) -> str:
        return json.dumps(load_usecase(self.usecase).example)

    def files(self) -> dict[str, Any]:
        "Models trained elsewhere."
        command = [sys.executable, str(Path(__file__).with_name("candidates.py"))]
        done = subprocess.run(
            [*command, str(self.kit.home / "elsewhere")],
            env={**self.kit.env, "MLKIT_USECASE": self.usecase, "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout.splitlines()[-1])

    def answer(self) -> dict[str, Any]:
        "To the use case's example, without what is another with every request."
        status, answer = call(self.port, "POST", "/decide", self.body())
        assert status == 200, answer
        answer.pop("decision_id")
        return answer

    def interface(self) -> Any:
        "The OpenAPI document, but for its version."
        _, document = call(self.port, "GET", "/openapi.json")
        document["info"].pop("version")
        return document

    def offer(self, candidate: Candidate, elsewhere: dict[str, Any]) -> None:
        "Put a candidate through, under load; a row of the table."
        before = self.answer()
        began = time.time()
        with under_load(self.port, self.body()) as load:
            output = self._put_through(candidate, elsewhere)
            time.sleep(0.5)
        after = self.answer()
        self._check(candidate, output, before, after, load)
        kind, version = after["model"]["kind"], after["model"]["version"]
        self.rows.append(
            dict(
                usecase=self.usecase,
                candidate=candidate.name,
                outcome=self._outcome(candidate, output),
                live=f"{kind}, version {version}",
                answered=len(load.answers),
                unanswered=len(load.refused),
                seconds=round(time.time() - began, 1),
            )
        )

    def _put_through(self, candidate: Candidate, elsewhere: dict[str, Any]) -> str:
        override = ["--override", "the replaceability test"] if candidate.passes else []
        expect = 0 if candidate.passes else 1
        if candidate.file:
            given = ["--kind", candidate.kind, "--trained-until", elsewhere["until"]]
            made = self.kit("model", "import", elsewhere["files"][candidate.file], *given)
            version = made.partition("version ")[2].partition(":")[0]
            return self.kit("model", "promote", version, *override, expect=expect)
        given = ["-p", f"kind={candidate.kind}", "-p", f"trials={candidate.trials}"]
        self.kit("train", *given)
        return self.kit("model", "promote", *override, expect=expect)

    def _check(
        self, candidate: Candidate, output: str, before: dict, after: dict, load: Load
    ) -> None:
        versions = {version for _, version in load.answers}
        if not candidate.passes:
            assert candidate.refused_for in output, output[-1500:]
            assert after == before, "a refused candidate touched the service"
            assert not load.refused, load.refused[:3]
            assert versions == {before["model"]["version"]}
            return
        assert after["model"]["kind"] == candidate.kind
        assert after["model"]["version"] > before["model"]["version"]
        assert versions <= {before["model"]["version"], after["model"]["version"]}
        assert sorted(after) == sorted(before)
        gap = [when for when, _ in load.refused]
        assert not gap or max(gap) - min(gap) < 30, "more than one gap, or a long one"
        assert all("Connection" in why or "Disconnected" in why for _, why in load.refused), (
            load.refused[:3]
        )

    def _outcome(self, candidate: Candidate, output: str) -> str:
        if not candidate.passes:
            return f"refused: {candidate.refused_for}"
        trail = (self.kit.workspace_of(self.usecase) / "audit.jsonl").read_text().splitlines()
        failed = json.loads(trail[-1]).get("failed", [])
        if not failed:
            return "promoted"
        return "promoted over: " + "; ".join(gate.partition(" (")[0] for gate in failed)


def serve_and_replace(
    kit: Kit, usecase: str, run: list[str], candidates: list[Candidate]
) -> list[dict[str, Any]]:
    "The whole test; the table."
    kit.env["MLKIT_USECASE"] = usecase
    plugins = catalogue(kit.home)
    kit.env["PYTHONPATH"] = os.pathsep.join(
        filter(None, [plugins, str(ROOT), os.environ.get("PYTHONPATH", "")])
    )
    frozen = infrastructure()
    kit("run", *run)
    kit("serve", "--detach")
    try:
        test = Replacing(kit, usecase)
        interface, elsewhere = test.interface(), test.files()
        champion = test.answer()
        for candidate in candidates:
            test.offer(candidate, elsewhere)
            assert test.interface() == interface, "the interface changed with the model"
        kit("rollback", "model", "--to", str(champion["model"]["version"]), "--why", "tested")
        assert test.answer() == champion, "going back gives other answers"
        assert infrastructure() == frozen
        return test.rows
    finally:
        kit("stop")
