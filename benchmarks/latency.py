"""`/decide` beside `/noop`, an endpoint of the same service that does nothing.

One client, one connection, the two interleaved:

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


class Client:
    "One connection to the service that the settings name."

    def __init__(self):
        settings = load_settings()
        token = settings.token.get_secret_value()
        self.headers = {"Authorization": f"Bearer {token}"}
        self.connection = http.client.HTTPConnection(settings.host, settings.port)
        self.body = json.dumps(load_usecase(settings.usecase).example)

    def ms(self, method: str, path: str, body: str | None = None) -> float:
        "Milliseconds of one request."
        start = time.perf_counter()
        self.connection.request(method, path, body, self.headers)
        response = self.connection.getresponse()
        response.read()
        if response.status != 200:
            raise SystemExit(f"{path} answered {response.status}")
        return (time.perf_counter() - start) * 1000

    def decide(self) -> float:
        return self.ms("POST", "/decide", self.body)

    def noop(self) -> float:
        return self.ms("GET", "/noop")


def figures(ms: np.ndarray) -> dict[str, float]:
    "Percentiles and the largest, to a hundredth."
    found = {f"p{q}": float(np.percentile(ms, q)) for q in (50, 90, 99)}
    found["max"] = float(ms.max())
    return {name: round(value, 2) for name, value in found.items()}


def main() -> None:
    client, n = Client(), int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    pairs = [(client.decide(), client.noop()) for _ in range(n)]
    decide, noop = np.array(pairs[n // 20 :]).T
    result = dict(requests=n, unit="ms", decide=figures(decide), noop=figures(noop))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
