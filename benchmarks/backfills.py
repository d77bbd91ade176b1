"""The fifteen handbook features over whole history, written four ways.

Each takes a `Data` and gives a frame with a row a payment, in any order. All begin with payments
and labels in memory, in their own form (arrays, frames, tables), and end with a Polars frame.
A window is (t − w, t) and the payment itself. What happened in the same microsecond, or exactly w
ago, is outside for all but DuckDB.

- ours: `mlkit.frames.offline`, with its conditions, nulls, overflow checks and several measures.
- numpy: the same windows and no more, by prefix sums: one sort a group, two binary searches a
  window. The floor for this way of doing it.
- polars: `rolling_sum_by(closed="none")` over the key. For the terminal, payments (counting 0) and
  labels (counting 1) are rolled over as one frame. The fastest of those tried
  (`group_by().rolling`, `join_asof` on running totals, sorted first or not). Same values; the last
  bit of a mean may differ, since Polars divides a column by a number through its reciprocal.
- duckdb: RANGE frames over the customer's payments, which end with the current row and its ties and
  include an event exactly w ago: twice as fast as frames that leave both out. For the terminal,
  running totals of the labels looked up by ASOF joins, which is exact and faster than frames over a
  union.
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
        payments = self.tx.select("event_id", "event_time", "customer_id", "terminal_id", "amount")
        labels = self.labels.select("event_time", "terminal_id", "is_fraud")
        for name, frame in (("tx", payments), ("labels", labels)):
            plain = frame.with_columns(pl.col("event_time").dt.replace_time_zone(None))
            db.register("frame", plain.to_arrow())
            db.execute(f"CREATE TABLE {name} AS FROM frame")
            db.unregister("frame")
        return db


def ours(d: Data) -> pl.DataFrame:
    return offline(features, d.tx, {Transaction: d.tx, Label: d.labels})


def micros(frame: pl.DataFrame) -> np.ndarray:
    return frame["event_time"].dt.timestamp("us").to_numpy()


class Prefix:
    "Counts and sums over windows of one key, by one sort and prefix sums."

    def __init__(self, d: Data, key: str, events: pl.DataFrame, value: str):
        t = micros(d.tx)
        start = int(t.min()) - 40 * DAY
        self.span = int(micros(d.labels).max()) - int(t.min()) + 80 * DAY
        line = events[key].to_numpy() * self.span + micros(events) - start
        order = np.argsort(line, kind="stable")
        self.line = line[order]
        values = events[value].cast(pl.Int64).to_numpy()[order]
        self.total = np.concatenate([[0], np.cumsum(values)])
        asked = d.tx[key].to_numpy() * self.span + t - start
        self.by = np.argsort(asked, kind="stable")
        self.asked = asked[self.by]
        self.stop = np.searchsorted(self.line, self.asked, "left")

    def window(self, days: int) -> tuple[np.ndarray, np.ndarray]:
        "Count and sum, in the order of the payments."
        begin = np.searchsorted(self.line, self.asked - days * DAY, "right")
        n, s = np.empty(len(begin), np.int64), np.empty(len(begin), np.int64)
        n[self.by] = self.stop - begin
        s[self.by] = self.total[self.stop] - self.total[begin]
        return n, s


def by_numpy(d: Data) -> pl.DataFrame:
    t, amount = micros(d.tx), d.tx["amount"].to_numpy()
    weekend, night = (t // DAY + 3) % 7 >= 5, t % DAY // 3_600_000_000 <= 6
    out = dict(event_id=d.tx["event_id"], amount=amount / 100.0, weekend=weekend, night=night)
    customer = Prefix(d, "customer_id", d.tx, "amount")
    for days in DAYS:
        n, s = customer.window(days)
        out[f"customer_n_{days}d"] = n + 1
        out[f"customer_spend_{days}d"] = (s + amount) / (n + 1) / 100.0
    terminal = Prefix(d, "terminal_id", d.labels, "is_fraud")
    for days in DAYS:
        n, s = terminal.window(days)
        out[f"terminal_seen_{days}d"] = n
        out[f"terminal_risk_{days}d"] = s / np.maximum(n, 1) / 1.0
    return pl.DataFrame(out)


def rolled(key: str, *columns: str) -> list[pl.Expr]:
    "Totals of columns over (t − w, t)."
    out = []
    for c in columns:
        for days in DAYS:
            total = pl.col(c).rolling_sum_by("event_time", f"{days}d", closed="none").over(key)
            out.append(total.alias(f"{c}_{days}"))
    return out


def polars_customer(d: Data) -> pl.LazyFrame:
    "The payment's own columns, and what its customer did."
    amount, time = pl.col("amount"), pl.col("event_time").dt
    out = [pl.col("event_id"), amount / 100]
    out += [(time.weekday() >= 6).alias("weekend"), (time.hour() <= 6).alias("night")]
    for w in DAYS:
        n, spend = pl.col(f"n_{w}") + 1, pl.col(f"amount_{w}") + amount
        out += [n.alias(f"customer_n_{w}d"), (spend / n / 100).alias(f"customer_spend_{w}d")]
    payments = d.tx.lazy().select(
        "event_id", "event_time", "customer_id", "amount", n=pl.lit(1, pl.Int64)
    )
    return payments.with_columns(rolled("customer_id", "n", "amount")).select(out)


def polars_terminal(d: Data) -> pl.LazyFrame:
    "What became known of its terminal."
    none, one = pl.lit(0, pl.Int64), pl.lit(1, pl.Int64)
    asked = d.tx.lazy().select("event_time", "terminal_id", n=none, s=none)
    fraud = pl.col("is_fraud").cast(pl.Int64)
    known = d.labels.lazy().select("event_time", "terminal_id", n=one, s=fraud)
    out = []
    for w in DAYS:
        n, share = pl.col(f"n_{w}"), pl.col(f"s_{w}") / pl.col(f"n_{w}")
        out.append(n.alias(f"terminal_seen_{w}d"))
        out.append(pl.when(n > 0).then(share).otherwise(0.0).alias(f"terminal_risk_{w}d"))
    both = pl.concat([asked, known]).with_columns(rolled("terminal_id", "n", "s"))
    return both.filter(pl.col("n") == 0).select(out)


def by_polars(d: Data) -> pl.DataFrame:
    return pl.concat(pl.collect_all([polars_customer(d), polars_terminal(d)]), how="horizontal")


FRAME = """w{w} AS (
    PARTITION BY customer_id ORDER BY event_time
    RANGE BETWEEN INTERVAL {w} DAY PRECEDING AND CURRENT ROW)"""
CUSTOMER = """
    count(*) OVER w{w} AS customer_n_{w}d,
    sum(amount) OVER w{w}::DOUBLE/count(*) OVER w{w}/100.0::DOUBLE AS customer_spend_{w}d"""
BEGIN = """
    ASOF LEFT JOIN run b{w} ON q.terminal_id = b{w}.terminal_id
    AND q.event_time - INTERVAL {w} DAY >= b{w}.event_time"""
TERMINAL = """
    ifnull(e.n, 0) - ifnull(b{w}.n, 0) AS seen_{w},
    ifnull(e.s, 0) - ifnull(b{w}.s, 0) AS fraud_{w}"""
SHOWN = """
    seen_{w} AS terminal_seen_{w}d,
    CASE WHEN seen_{w} > 0 THEN fraud_{w}::DOUBLE/seen_{w} ELSE 0.0::DOUBLE END
        AS terminal_risk_{w}d"""
QUERY = """
WITH customer AS (
    SELECT event_id, amount::DOUBLE/100.0::DOUBLE AS amount,
        isodow(event_time) >= 6 AS weekend, hour(event_time) <= 6 AS night, {customer}
    FROM tx WINDOW {frames}),
counted AS (
    SELECT terminal_id, event_time, count(*) OVER w AS n, sum(is_fraud::INT) OVER w AS s
    FROM labels WINDOW w AS (PARTITION BY terminal_id ORDER BY event_time)),
run AS (
    SELECT terminal_id, event_time, any_value(n) AS n, any_value(s) AS s
    FROM counted GROUP BY ALL),
terminal AS (
    SELECT q.event_id, {terminal}
    FROM tx q
    ASOF LEFT JOIN run e ON q.terminal_id = e.terminal_id AND q.event_time > e.event_time {begin})
SELECT customer.*, {shown} FROM customer JOIN terminal USING (event_id)"""


def by_duckdb(d: Data) -> pl.DataFrame:
    each = lambda text, between: between.join(text.format(w=w) for w in DAYS)
    query = QUERY.format(
        customer=each(CUSTOMER, ", "),
        frames=each(FRAME, ", "),
        terminal=each(TERMINAL, ", "),
        begin=each(BEGIN, " "),
        shown=each(SHOWN, ", "),
    )
    return d.duck.sql(query).pl()


VARIANTS = dict(ours=ours, numpy=by_numpy, polars=by_polars, duckdb=by_duckdb)
