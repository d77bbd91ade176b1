"The folder that files are dropped in: its source, and consuming it to the end."

from __future__ import annotations

import json
from typing import Any

import world
from helpers import FEATURES, Outcome, Pay

from mlkit.etl import Logs
from mlkit.sources import FolderSource
from mlkit.stores import ensure_store
from mlkit.stream import Consumer, Follower, run


def source(logs: Logs, settle: float = 0.0) -> FolderSource:
    return FolderSource(logs.folder / "inbox", [Pay, Outcome], settle=settle)


def drain(logs: Logs, **options: Any) -> Any:
    "Consume until the folder is empty; what was done."
    with ensure_store(FEATURES, logs.folder, logs) as store:
        return run(Consumer(logs, [Follower(store, logs)], source(logs, **options)), once=True)


def files(logs: Logs, *parts: str) -> list[str]:
    return sorted(p.name for p in (logs.folder / "inbox").joinpath(*parts).iterdir() if p.is_file())


def rows(n: int) -> str:
    return "".join(json.dumps(row) + "\n" for s, row in world.batch(n) if s == "pay")
