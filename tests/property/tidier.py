"""A process that tidies a log, or appends to it.

`tidy FOLDER STEPS SECONDS` tidies once and kills itself at the call or return of a function that
has this number, or after so many seconds; 0 is never. `loop FOLDER TIMES` tidies again and again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from log_writer import Pay

from mlkit import tidy
from mlkit.etl import Logs


def kill_at(last: int) -> None:
    count = [0]

    def step(*_: object) -> None:
        count[0] += 1
        if count[0] == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(step)


def main(how: str, folder: str, *numbers: str) -> None:
    uri = Logs(folder)[Pay].uri
    if how == "loop":
        for _ in range(int(numbers[0])):
            tidy.tidy(uri, keep_hours=1)
        return
    steps, seconds = int(numbers[0]), float(numbers[1])
    if seconds:
        threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()
    if steps:
        kill_at(steps)
    tidy.tidy(uri, keep_hours=0)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
