"Lag, watermark and throughput can be seen, and the command ends as it should."

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import world
from helpers import FEATURES, Outcome, Pay

from mlkit.etl import Logs, land
from mlkit.eventlog import scan
from mlkit.redis_source import RedisSource
from mlkit.sources import FolderSource, StreamError
from mlkit.stores import ensure_store
from mlkit.stream import Consumer, Follower, Metrics, StreamStats, refresh, run
from mlkit.usecases import fraud, simulator

ROOT = Path(__file__).resolve().parents[2]


def test_lag_of_a_folder(logs: Logs) -> None:
    "Files that wait, since the first of them came."
    source = FolderSource(logs.folder / "inbox", [Pay, Outcome], settle=0)
    assert source.lag().waiting == 0 and source.lag().oldest is None
    for n in range(2):
        world.drop(source.inbox, n)
    assert source.lag().waiting == 4 and source.lag().oldest == min(
        p.stat().st_ctime for p in source.inbox.glob("*.jsonl")
    )
    [batch] = source.poll()
    source.done(batch)
    assert source.lag().waiting == 3


def test_lag_of_a_redis_stream(logs: Logs, redis: Any) -> None:
    "Entries not acknowledged, whether given to a consumer or not, since the first of them was sent."
    source = RedisSource(
        redis.url, [Pay, Outcome], logs.folder / "stream", "events", batch_size=10, linger=0.0
    )
    assert source.lag().waiting == 0
    world.send(redis, "events", 0)
    sent = redis.xlen("events")
    ids = [int(n.split(b"-")[0]) / 1000 for n, _ in redis.xrange("events")]
    [batch] = source.poll()
    assert source.lag().waiting == sent and source.lag().oldest == ids[0] == batch.oldest
    source.done(batch)
    assert source.lag().waiting == sent - 10 and source.lag().oldest == ids[10]
    source.close()


def test_watermarks_and_what_the_state_lacks(logs: Logs) -> None:
    "The log is ahead of the state by what was landed and not followed."
    source = FolderSource(logs.folder / "inbox", [Pay, Outcome], settle=0)
    with ensure_store(FEATURES, logs.folder, logs) as store:
        consumer = Consumer(logs, [Follower(store, logs)], source)
        p = consumer.stats
        world.drop(source.inbox, 0)
        run(consumer, once=True)
        latest = lambda: max(scan(logs[s]).collect()["event_time"].max() for s in (Pay, Outcome))
        assert p.log_watermark == p.state_watermark == latest() and p.behind == 0
        before = latest()
        world.drop(source.inbox, 1)
        landed = sum(land(logs, source.poll()[0]).new for _ in range(2))
        refresh(consumer)
        assert p.behind == landed > 0 and p.log_watermark == latest() > before == p.state_watermark
        consumer.follow()
        refresh(consumer)
        assert p.behind == 0 and p.state_watermark == latest()


def test_metrics_say_what_progress_says() -> None:
    "Served on the loopback interface; the age of the oldest entry is that of the moment of the scrape."
    progress = StreamStats(batches=3, events=70, duplicates=5, quarantined=2)
    metrics = Metrics(progress)
    server = metrics.serve(0)
    assert server.server_address[0] == "127.0.0.1"
    progress.events = 90
    metrics.delay.observe(0.2)
    text = urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics").read().decode()
    for line in (
        "mlkit_stream_events_total 90.0",
        "mlkit_stream_batches_total 3.0",
        "mlkit_stream_duplicates_total 5.0",
        "mlkit_stream_quarantined_total 2.0",
        'mlkit_stream_delay_seconds_bucket{le="0.25"} 1.0',
    ):
        assert line in text.splitlines()
    with pytest.raises(StreamError, match="--metrics-port"):
        Metrics(progress).serve(server.server_port)
    server.shutdown()


def command(home: Path, *arguments: str, **environment: str) -> subprocess.Popen:
    "`mlkit stream` in a workspace of its own."
    env = {
        **os.environ,
        "MLKIT_HOME": str(home),
        "MLKIT_WORKSPACE": "live",
        "PYTHONPATH": str(ROOT),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, "-c", "from mlkit.cli import main; main()", "stream", *arguments],
        env=env,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def simulated(path: Path, seed: int) -> int:
    "A file of a known format; how many transactions it has."
    raw = simulator.simulate(customers=8, terminals=8, days=12, seed=seed).with_columns(
        transaction_id=pl.format("{}-{}", pl.lit(seed), "transaction_id")
    )
    simulator.write(raw, path)
    return raw.height


def test_command_takes_what_is_there(tmp_path: Path) -> None:
    "A new workspace, files of a known format: log and state stand at their end."
    inbox = tmp_path / "fraud" / "live" / "inbox"
    inbox.mkdir(parents=True)
    rows = sum(simulated(inbox / f"{n}.parquet", n) for n in range(2))
    process = command(tmp_path, "--once", "--settle", "0")
    out, err = process.communicate()
    assert process.returncode == 0, err
    logs = Logs(tmp_path / "fraud" / "live")
    assert (
        scan(logs[fraud.Transaction]).collect().height == rows
        and "behind 0" in out.splitlines()[-1]
        and "batches 2" in out.splitlines()[-1]
    )
    with ensure_store(fraud.features, logs.folder, logs) as store:
        assert Follower(store, logs).position()["transaction"] == rows - 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_command_ends_when_asked_to(tmp_path: Path, how: signal.Signals) -> None:
    "While it waits for more: exit status 0, and the sum of what it did."
    inbox = tmp_path / "fraud" / "live" / "inbox"
    inbox.mkdir(parents=True)
    simulated(inbox / "1.parquet", 1)
    process = command(tmp_path, "--settle", "0")
    while not (inbox / "done" / "1.parquet").exists():
        assert process.poll() is None and not time.sleep(0.02)
    process.send_signal(how)
    out, err = process.communicate()
    assert process.returncode == 0 and "ended: " in out and "batches 1" in out, err


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    "No such source; a Redis that is not there."
    for arguments, environment, why in (
        (["--source", "tape"], {}, "folder or redis"),
        (
            ["--source", "redis", "--once"],
            {"MLKIT_REDIS_URL": "redis://:secret@127.0.0.1:1/0"},
            "Redis at 127.0.0.1:1",
        ),
    ):
        process = command(tmp_path, *arguments, **environment)
        out, err = process.communicate()
        assert (
            process.returncode == 2
            and why in " ".join(err.split())
            and "Traceback" not in err
            and "secret" not in out + err
        )


def test_command_has_examples() -> None:
    out = command(Path("/nowhere"), "--help").communicate()[0]
    assert "mlkit stream --once" in out and "--follow-only" in out and "--metrics-port" in out
