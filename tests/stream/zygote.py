"""Consumers in processes of their own, forked from one that has imported everything and never run
a Polars operation.

A line of JSON on the input starts a consumer and is answered by its pid; `wait PID` is answered
by its exit status, negative for a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from pathlib import Path

# imported before the fork, so that a consumer starts in a third of a second
import deltalake  # noqa: F401

from mlkit import follower, redis_source, sources, stores, stream


def count_steps(last: int) -> None:
    "Die at the last of so many calls and returns of functions."
    count = [0]

    def step(*_: object) -> None:
        count[0] += 1
        if count[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(step)


def die_at(moment: str) -> None:
    "Die where log, state and source have got different far."

    def dies(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if moment == "log":
        stream.land = dies  # before the log has it
    elif moment == "state":
        follower.apply = dies  # the log has it, the state does not
    elif moment == "done":
        sources.FolderSource.done = redis_source.RedisSource.done = (
            dies  # log and state have it, the source does not know
        )


def consume(
    folder: str,
    url: str = "",
    steps: int = 0,
    moment: str = "",
    once: bool = False,
    follow_only: bool = False,
    compact_after: int = 6,
    **source: float,
) -> None:
    "A consumer, as `mlkit stream` makes it."
    from helpers import FEATURES

    from mlkit.etl import Logs

    if steps:
        count_steps(steps)
    if moment:
        die_at(moment)
    logs, streams = Logs(folder), [s for s in FEATURES.streams]
    taken = (
        None
        if follow_only
        else redis_source.RedisSource(url, streams, Path(folder) / "stream", key="events", **source)
        if url
        else sources.FolderSource(Path(folder) / "inbox", streams, **{"settle": 0.0, **source})
    )
    with stores.ensure_store(FEATURES, Path(folder), logs) as store:
        consumer = stream.Consumer(logs, [stream.Follower(store, logs)], taken, compact_after)

        class Say(stream.Display):
            def say(self, text: str) -> None:
                print(text, file=sys.stderr, flush=True)

        with stream.stopping(consumer):
            stream.run(consumer, once, Say())


def main() -> None:
    for line in sys.stdin:
        if line.startswith("wait "):
            print(os.waitstatus_to_exitcode(os.waitpid(int(line[5:]), 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                sys.stdin.close()
                consume(**json.loads(line))
                code = 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        print(pid, flush=True)


if __name__ == "__main__":
    main()
