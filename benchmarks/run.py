"""Every benchmark, one after the other, each with figures and picture in benchmarks/results/.

    python benchmarks/run.py [payments.parquet] [--quick] [--no-feast]

The service is started and stopped for its own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(name: str, *arguments: str) -> str:
    "Run a benchmark; show and return what it prints."
    print(f"\n{name}", flush=True)
    command = [sys.executable, str(HERE / f"{name}.py"), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    print(done.stdout, flush=True)
    return done.stdout


def run_latency(*arguments: str) -> None:
    "The service's own benchmark."
    mlkit = str(Path(sys.executable).parent / "mlkit")
    if subprocess.run([mlkit, "serve", "--detach"]).returncode:
        raise SystemExit("the latency benchmark needs a champion: `make run` first")
    try:
        (HERE / "results" / "latency.json").write_text(run("latency", *arguments))
    finally:
        subprocess.run([mlkit, "stop"])


def main() -> None:
    options, quick = sys.argv[1:], "--quick" in sys.argv
    run("online", *(o for o in options if o.startswith("--")))
    run("features", *options)
    run("stream", *(["--events", "2000", "--seconds", "2"] if quick else []))
    run("scale", *(["--rows", "100000,1000000", "--no-cluster"] if quick else []))
    run_latency(*(["500"] if quick else []))


if __name__ == "__main__":
    main()
