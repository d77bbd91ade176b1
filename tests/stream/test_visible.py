"Lag, watermark and throughput: what is shown is what is."

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any

import pytest
import world
from helpers import FEATURES, Outcome, Pay

from mlkit.etl import Logs, land
from mlkit.eventlog import scan
from mlkit.redis_source import RedisSource
from mlkit.sources import FolderSource, StreamError
from mlkit.stores import ensure_store
from mlkit.stream import Consumer, Follower, Metrics, StreamStats, refresh, run

ROOT = Path(__file__).resolve().parents[2]


def test_lag_of_a_folder(logs: Logs) -> None:
    "Files that wait, since the first of them came."
    source = FolderSource(logs.folder / "inbox", [Pay, Outcome], settle=0)
    assert source.lag().waiting == 0
    assert source.lag().oldest is None
    for n in range(2):
        world.drop(source.inbox, n)
    assert source.lag().waiting == 4
    assert source.lag().oldest == min(p.stat().st_ctime for p in source.inbox.glob("*.jsonl"))
    [batch] = source.poll()
    source.done(batch)
    assert source.lag().waiting == 3


def test_lag_of_a_redis_stream(logs: Logs, redis: Any) -> None:
    """Entries not acknowledged, whether given to a consumer or not, since the first of them was
    sent."""
    source = RedisSource(
        redis.url, [Pay, Outcome], logs.folder / "stream", "events", batch_size=10, linger=0.0
    )
    assert source.lag().waiting == 0
    world.send(redis, "events", 0)
    sent = redis.xlen("events")
    ids = [int(n.split(b"-")[0]) / 1000 for n, _ in redis.xrange("events")]
    [batch] = source.poll()
    assert source.lag().waiting == sent
    assert source.lag().oldest == ids[0] == batch.oldest
    source.done(batch)
    assert source.lag().waiting == sent - 10
    assert source.lag().oldest == ids[10]
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
        assert p.log_watermark == p.state_watermark == latest()
        assert p.behind == 0
        before = latest()
        world.drop(source.inbox, 1)
        landed = sum(land(logs, source.poll()[0]).new for _ in range(2))
        refresh(consumer)
        assert p.behind == landed > 0
        assert p.log_watermark == latest() > before == p.state_watermark
        consumer.follow()
        refresh(consumer)
        assert p.behind == 0
        assert p.state_watermark == latest()


def test_metrics_say_what_progress_says() -> None:
    """Served on the loopback interface; the age of the oldest entry is that of the moment of the
    scrape."""
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
