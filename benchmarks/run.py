"""Every benchmark, one after the other, each with its figures and picture in benchmarks/results/. The service is started and stopped for its own.

python benchmarks/run.py [payments.parquet] [--quick] [--no-feast]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(name: str, *arguments: str) -> str:
    "Run a benchmark; show what it says."
    print(f"\n{name}", flush=True)
    said = subprocess.run(
        [sys.executable, str(HERE / f"{name}.py"), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    print(said, flush=True)
    return said


def main() -> None:
    options, quick = sys.argv[1:], "--quick" in sys.argv
    run("online", *(o for o in options if o.startswith("--")))
    run("features", *options)
    run("stream", *(["--events", "2000", "--seconds", "2"] if quick else []))
    run("scale", *(["--rows", "100000,1000000", "--no-cluster"] if quick else []))
    mlkit = str(Path(sys.executable).parent / "mlkit")
    if subprocess.run([mlkit, "serve", "--detach"]).returncode:
        raise SystemExit("the latency benchmark needs a champion: `make run` first")
    try:
        (HERE / "results" / "latency.json").write_text(run("latency", *(["500"] if quick else [])))
    finally:
        subprocess.run([mlkit, "stop"])


if __name__ == "__main__":
    main()
