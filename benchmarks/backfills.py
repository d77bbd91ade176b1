"""The fifteen handbook features over whole history, written five ways; each takes a `Data` and gives a frame with a row a payment, in any order.

All begin with payments and labels in memory, in their own form (arrays, frames, tables), and end with a Polars frame in memory.
A window is (t − w, t) and the payment itself. What happened in the same microsecond, or exactly w ago, is outside for all but DuckDB.

- ours: `mlkit.features.offline`, with its conditions, nulls, overflow checks and several measures.
- numpy: the same windows and no more, by prefix sums: one sort a series, two binary searches a window. The floor for this way of doing it.
- polars: `rolling_sum_by(closed="none")` over the key. For the terminal, payments (counting 0) and labels (counting 1) are rolled over as one
  frame. The fastest of those tried (`group_by().rolling`, `join_asof` on running totals, sorted first or not). Same values; the last bit of a
  mean may differ, since Polars divides a column by a number through its reciprocal.
- duckdb: RANGE frames over the customer's payments, which end with the current row and its ties and include an event exactly w ago: twice as fast as
  frames that leave both out. For the terminal, running totals of the labels looked up by ASOF joins, which is exact and faster than frames over a union.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from mlkit.frames import offline
from mlkit.usecases.fraud import Label, Transaction, features

DAYS, DAY = (1, 7, 30), 86_400_000_000


@dataclass
class Data:
    "Payments, and labels at the time they became known."

    tx: pl.DataFrame
    labels: pl.DataFrame

    @cached_property
    def duck(self) -> Any:
        "The same as DuckDB tables, in memory."
        import duckdb

        db = duckdb.connect()
        db.execute("SET TimeZone = 'UTC'")
        for name, frame in (
            (
                "tx",
                self.tx.select("event_id", "event_time", "customer_id", "terminal_id", "amount"),
            ),
            ("labels", self.labels.select("event_time", "terminal_id", "is_fraud")),
        ):
            db.register(
                "frame",
                frame.with_columns(pl.col("event_time").dt.replace_time_zone(None)).to_arrow(),
            )
            db.execute(f"CREATE TABLE {name} AS FROM frame")
            db.unregister("frame")
        return db


def ours(d: Data) -> pl.DataFrame:
    return offline(features, d.tx, {Transaction: d.tx, Label: d.labels})


def by_numpy(d: Data) -> pl.DataFrame:
    t = d.tx["event_time"].dt.timestamp("us").to_numpy()
    start, span = (
        int(t.min()) - 40 * DAY,
        int(d.labels["event_time"].dt.timestamp("us").max()) - int(t.min()) + 80 * DAY,
    )
    amount = d.tx["amount"].to_numpy()
    out = dict(
        amount=amount / 100.0, weekend=(t // DAY + 3) % 7 >= 5, night=t % DAY // 3_600_000_000 <= 6
    )
    for key, events, value, own, names in (
        ("customer_id", d.tx, "amount", amount, "customer_n customer_spend"),
        ("terminal_id", d.labels, "is_fraud", None, "terminal_seen terminal_risk"),
    ):
        e = (
            events[key].to_numpy() * span
            + events["event_time"].dt.timestamp("us").to_numpy()
            - start
        )
        order = np.argsort(e, kind="stable")
        e = e[order]
        total = np.concatenate([[0], np.cumsum(events[value].cast(pl.Int64).to_numpy()[order])])
        asked = d.tx[key].to_numpy() * span + t - start
        by = np.argsort(asked, kind="stable")
        asked = asked[by]
        stop = np.searchsorted(e, asked, "left")
        for days in DAYS:
            begin = np.searchsorted(e, asked - days * DAY, "right")
            n, s = np.empty(len(t), np.int64), np.empty(len(t), np.int64)
            n[by], s[by] = stop - begin, total[stop] - total[begin]
            if own is not None:
                n, s = n + 1, s + own
            count, mean = names.split()
            out[f"{count}_{days}d"], out[f"{mean}_{days}d"] = (
                n,
                s / np.maximum(n, 1) / (100.0 if own is not None else 1.0),
            )
    return pl.DataFrame(dict(event_id=d.tx["event_id"], **out))


def _rolled(key: str, n: str, s: str) -> list[pl.Expr]:
    "Counts and totals over (t − w, t)."
    return [
        pl.col(c)
        .rolling_sum_by("event_time", f"{days}d", closed="none")
        .over(key)
        .alias(f"{c}_{days}")
        for c in (n, s)
        for days in DAYS
    ]


def by_polars(d: Data) -> pl.DataFrame:
    n, amount, hour, weekday = (
        pl.lit(1, pl.Int64),
        pl.col("amount"),
        pl.col("event_time").dt.hour(),
        pl.col("event_time").dt.weekday(),
    )
    customer = (
        d.tx.lazy()
        .select("event_id", "event_time", "customer_id", "amount", n=n)
        .with_columns(_rolled("customer_id", "n", "amount"))
        .select(
            "event_id",
            amount / 100,
            (weekday >= 6).alias("weekend"),
            (hour <= 6).alias("night"),
            *((pl.col(f"n_{w}") + 1).alias(f"customer_n_{w}d") for w in DAYS),
            *(
                ((pl.col(f"amount_{w}") + amount) / (pl.col(f"n_{w}") + 1) / 100).alias(
                    f"customer_spend_{w}d"
                )
                for w in DAYS
            ),
        )
    )
    asked = d.tx.lazy().select(
        "event_time", "terminal_id", n=pl.lit(0, pl.Int64), s=pl.lit(0, pl.Int64)
    )
    known = d.labels.lazy().select(
        "event_time", "terminal_id", n=n, s=pl.col("is_fraud").cast(pl.Int64)
    )
    terminal = (
        pl.concat([asked, known])
        .with_columns(_rolled("terminal_id", "n", "s"))
        .filter(pl.col("n") == 0)
        .select(
            *(pl.col(f"n_{w}").alias(f"terminal_seen_{w}d") for w in DAYS),
            *(
                pl.when(pl.col(f"n_{w}") > 0)
                .then(pl.col(f"s_{w}") / pl.col(f"n_{w}"))
                .otherwise(0.0)
                .alias(f"terminal_risk_{w}d")
                for w in DAYS
            ),
        )
    )
    return pl.concat(pl.collect_all([customer, terminal]), how="horizontal")


def by_duckdb(d: Data) -> pl.DataFrame:
    frames = ", ".join(
        f"w{w} AS (PARTITION BY customer_id ORDER BY event_time RANGE BETWEEN INTERVAL {w} DAY PRECEDING AND CURRENT ROW)"
        for w in DAYS
    )
    of_customer = ", ".join(
        f"count(*) OVER w{w} AS customer_n_{w}d, sum(amount) OVER w{w}::DOUBLE/count(*) OVER w{w}/100.0::DOUBLE AS customer_spend_{w}d"
        for w in DAYS
    )
    begin = " ".join(
        f"ASOF LEFT JOIN run b{w} ON q.terminal_id = b{w}.terminal_id AND q.event_time - INTERVAL {w} DAY >= b{w}.event_time"
        for w in DAYS
    )
    of_terminal = ", ".join(
        f"ifnull(e.n, 0) - ifnull(b{w}.n, 0) AS seen_{w}, ifnull(e.s, 0) - ifnull(b{w}.s, 0) AS fraud_{w}"
        for w in DAYS
    )
    shown = ", ".join(
        f"seen_{w} AS terminal_seen_{w}d, CASE WHEN seen_{w} > 0 THEN fraud_{w}::DOUBLE/seen_{w} ELSE 0.0::DOUBLE END AS terminal_risk_{w}d"
        for w in DAYS
    )
    return d.duck.sql(f"""
        WITH customer AS (SELECT event_id, amount::DOUBLE/100.0::DOUBLE AS amount, isodow(event_time) >= 6 AS weekend, hour(event_time) <= 6 AS night, {of_customer} FROM tx WINDOW {frames}),
        counted AS (SELECT terminal_id, event_time, count(*) OVER w AS n, sum(is_fraud::INT) OVER w AS s FROM labels WINDOW w AS (PARTITION BY terminal_id ORDER BY event_time)),
        run AS (SELECT terminal_id, event_time, any_value(n) AS n, any_value(s) AS s FROM counted GROUP BY ALL),
        terminal AS (SELECT q.event_id, {of_terminal} FROM tx q ASOF LEFT JOIN run e ON q.terminal_id = e.terminal_id AND q.event_time > e.event_time {begin})
        SELECT customer.*, {shown} FROM customer JOIN terminal USING (event_id)""").pl()  # noqa: S608


VARIANTS = dict(ours=ours, numpy=by_numpy, polars=by_polars, duckdb=by_duckdb)
