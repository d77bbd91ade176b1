"""Invariant 3 for streams: killed a hundred times at any point while a producer runs, the log
holds every event once, and the state equals a bulk load bit for bit."""

from __future__ import annotations

import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import world
from crowd import Consumers, assert_log_complete, assert_state_equals_bulk_load, assert_unread_kept

from mlkit.etl import Logs

KILLS, LOOKS = 50, 3  # of each source; how often the state is compared on the way
BATCHES = 12  # that are sent meanwhile, at least


class Producer(threading.Thread):
    "Sends one batch after the other, a few ahead of the consumers, until told to stop."

    def __init__(self, send: Callable[[int], None], waiting: Callable[[], int], most: int):
        super().__init__(daemon=True)
        self.send, self.waiting, self.most, self.sent, self.stopped = (
            send,
            waiting,
            most,
            0,
            threading.Event(),
        )

    def run(self) -> None:
        while not self.stopped.wait(0.01):
            if self.waiting() < self.most:
                self.send(self.sent)
                self.sent += 1

    def stop(self) -> int:
        "How many batches there were."
        self.stopped.set()
        self.join()
        return self.sent


def kill_again_and_again(
    consumers: Consumers, logs: Logs, producer: Producer, seed: int
) -> list[int]:
    """Half of them die at a call or return of a function, half at a moment of the clock, some in
    pairs; the exit statuses. On a busy machine they get less done, and more of them are needed."""
    draw, ends = random.Random(seed), []
    while len(ends) < KILLS or (producer.sent <= BATCHES and len(ends) < 4 * KILLS):
        pids = [
            consumers.start(steps=int(10 ** draw.uniform(2.5, 5.2)) if len(ends) % 2 else 0)
            for _ in range(2 if len(ends) % 5 == 0 else 1)
        ]
        ends += [consumers.kill_after(pid, draw.uniform(0.15, 1.0)) for pid in pids]
        if len(ends) % (KILLS // LOOKS) == 0:
            assert_state_equals_bulk_load(logs, most=50)
    return ends


def assert_killed(ends: list[int]) -> None:
    assert set(ends) == {-signal.SIGKILL}, ends


def test_killed_while_files_are_dropped(logs: Logs, consumers: Any) -> None:
    "The source is a folder."
    inbox = logs.folder / "inbox"
    inbox.mkdir(parents=True)
    producer = Producer(
        lambda n: world.drop(inbox, n), lambda: len(list(inbox.glob("*.jsonl"))), most=8
    )
    producer.start()
    crowd = consumers()
    try:
        ends = kill_again_and_again(crowd, logs, producer, seed=1)
    finally:
        batches = producer.stop()
    assert_killed(ends)
    crowd.once()
    assert batches > BATCHES
    assert not list(inbox.glob("*.jsonl"))
    assert len(list((inbox / "done").iterdir())) == 2 * batches
    assert_log_complete(logs, batches)
    assert assert_state_equals_bulk_load(logs) == len(world.pay_ids(batches))


def test_killed_while_entries_are_sent(logs: Logs, consumers: Any, redis: Any) -> None:
    """The source is a Redis stream; consumers that died as the second of a pair leave entries
    that others take over."""
    lag = lambda: (
        sum(g["lag"] + g["pending"] for g in redis.xinfo_groups("events"))
        if redis.exists("events") and redis.xinfo_groups("events")
        else redis.xlen("events")
    )
    producer = Producer(lambda n: world.send(redis, "events", n), lag, most=160)
    producer.start()
    crowd = consumers(url=redis.url, batch_size=50, linger=0.0, takeover=0.4)
    try:
        ends = kill_again_and_again(crowd, logs, producer, seed=2)
    finally:
        batches = producer.stop()
    assert_killed(ends)
    last = crowd.start()
    while lag():
        assert not crowd.ended(last)
    assert crowd.end(last) == 0
    assert batches > BATCHES
    assert redis.xpending("events", "mlkit")["pending"] == 0
    assert_log_complete(logs, batches)
    assert_unread_kept(logs, batches)
    assert assert_state_equals_bulk_load(logs) == len(world.pay_ids(batches))
