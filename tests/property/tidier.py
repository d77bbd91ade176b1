"""A process that tidies a log, or appends to it.

`tidy FOLDER STEPS SECONDS` tidies once and kills itself at the call or return of a function that
has this number, or after so many seconds; 0 is never. `loop FOLDER TIMES` tidies again and again.
"""

from __future__ import annotations

import os
import signal
import sys
import threading

from log_writer import Pay, counting

from mlkit import tidy
from mlkit.etl import Logs


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
        counting(steps)
    tidy.tidy(uri, keep_hours=0)
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])
