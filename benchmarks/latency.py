"""`/decide` beside `/noop`, an endpoint of the same service that does nothing: one client, one connection, interleaved.

mlkit serve --detach && python benchmarks/latency.py; mlkit stop
"""

from __future__ import annotations

import http.client
import json
import sys
import time

import numpy as np

from mlkit.settings import load_settings
from mlkit.usecase import load_usecase


def timed(
    connection: http.client.HTTPConnection,
    headers: dict[str, str],
    method: str,
    path: str,
    body: str | None = None,
) -> float:
    "Milliseconds of one request."
    start = time.perf_counter()
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    response.read()
    if response.status != 200:
        raise SystemExit(f"{path} answered {response.status}")
    return (time.perf_counter() - start) * 1000


def main() -> None:
    settings = load_settings()
    usecase = load_usecase(settings.usecase)
    connection = http.client.HTTPConnection(settings.host, settings.port)
    headers = {"Authorization": f"Bearer {settings.token.get_secret_value()}"}
    body, n = json.dumps(usecase.example), int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    both = np.array(
        [
            (
                timed(connection, headers, "POST", "/decide", body),
                timed(connection, headers, "GET", "/noop"),
            )
            for _ in range(n)
        ]
    )[n // 20 :]
    figures = {
        name: {f"p{q}": round(float(np.percentile(ms, q)), 2) for q in (50, 90, 99)}
        | {"max": round(float(ms.max()), 2)}
        for name, ms in zip(("decide", "noop"), both.T)
    }
    print(json.dumps(dict(requests=n, unit="ms", **figures), indent=1))


if __name__ == "__main__":
    main()
