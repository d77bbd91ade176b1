"""Every benchmark, one after the other; what they print is kept in benchmarks/results/. The service is started and stopped for its own."""
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def keep(name: str, *command: str) -> None:
    "Run a benchmark, show and keep what it says."
    print(f"\n{name}", flush=True)
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    print(said)
    (HERE/"results").mkdir(exist_ok=True)
    (HERE/"results"/f"{name}.json").write_text(said)


def main() -> None:
    keep("online", sys.executable, str(HERE/"online.py"))
    keep("features", sys.executable, str(HERE/"features.py"), *sys.argv[1:])
    mlkit = str(Path(sys.executable).parent/"mlkit")
    if subprocess.run([mlkit, "serve", "--detach"], env=os.environ).returncode: raise SystemExit("the latency benchmark needs a champion: `make run` first")
    try: keep("latency", sys.executable, str(HERE/"latency.py"))
    finally: subprocess.run([mlkit, "stop"])


if __name__ == "__main__": main()
