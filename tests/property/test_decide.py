"""A valid request always gets a decision, whatever is left out; any other gets `ContractError`.

Two use cases: one whose exposure is optional, one without an exposure.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlkit.decisions import DecisionLog, Engine, Release, answer, load_release
from mlkit.errors import ContractError
from mlkit.events import Stream
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Category, Fixed, Flag, Key, Text, Time
from mlkit.kinds import Constant
from mlkit.policy import Guard, Policy, Route
from mlkit.splits import LabelRule, Plan
from mlkit.stores import ensure_store
from mlkit.usecase import UseCase


class Pay(Stream):
    "A payment with much that may be left out."

    who = Key()
    amount = Fixed(places=2, low=-1000, high=1e6, optional=True)
    tip = Fixed(places=2, optional=True)
    kind = Category(values=("card", "cash"), optional=True)
    new = Flag(optional=True)
    note = Text(optional=True)
    since = Time(optional=True)


class Outcome(Stream):
    "What it turned out to be."

    pay = Text()
    who = Key()
    bad = Flag()


class Who(FeatureView, key="who"):
    n = Pay.count(over=["1d"])
    spend = Pay.mean("amount", over=["7d"])
    tips = Pay.sum("tip", over=["7d"])
    kinds = Pay.distinct("kind", over=["7d"])
    last = Pay.last("kind", over=["7d"])
    bad = Outcome.mean("bad", over=["30d"])


class Row(FeatureView):
    amount = pl.col("amount")
    tip = pl.col("tip")
    kind = pl.col("kind")
    new = pl.col("new")
    much = pl.col("amount") / pl.col("who_spend_7d")
    old = (pl.col("event_time") - pl.col("since")).dt.total_days()


ROUTES = (
    Route("accept"),
    Route("deposit", probability=0.4, loss=50.0),
    Route("human", human=True, probability=0.9, loss=500.0),
)
FEATURES = FeatureSet(Pay, [Who, Row])
OPTIONAL = UseCase(
    name="tips",
    request=Pay,
    labels=LabelRule(Outcome, "pay", "bad"),
    formats=[],
    features=FEATURES,
    policy=Policy(
        "p", ROUTES, "amount", (Guard("tip", "tip != null && tip > 100.0", "a large tip"),)
    ),
    plan=Plan(),
    entity="who",
    example=dict(event_id="p", event_time="2025-01-01T00:00:00Z", who=1, amount=2.0),
)
BARE = replace(
    OPTIONAL, policy=Policy("bare", (Route("accept"), Route("human", True, probability=0.5)))
)

ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)
CENTS = st.integers(-100_000, 100_000_000).map(lambda c: c / 100)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(2099, 12, 31))
WHEN = MOMENTS.map(datetime.isoformat) | st.just("2025-01-01T10:00:00.123456+05:30")
VALID = dict(
    event_id=st.text(min_size=1, max_size=8),
    event_time=st.just("2025-01-01T10:00:00Z") | WHEN,
    who=st.integers(-(2**63), 2**63 - 1),
)
LEFT_OUT = dict(
    amount=CENTS | st.none(),
    tip=CENTS.map(abs) | st.none(),
    kind=st.sampled_from(["card", "cash", None]),
    new=st.booleans() | st.none(),
    note=st.text(min_size=1, max_size=8) | st.none(),
    since=WHEN | st.none(),
)
PLAUSIBLE = st.fixed_dictionaries(VALID, optional=LEFT_OUT)
ANY_JSON = st.fixed_dictionaries({}, optional={n: ANYTHING for n in [*Pay.fields, "colour"]})


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    from mlkit.etl import Logs

    folder = tmp_path_factory.mktemp("decide")
    store = ensure_store(FEATURES, folder, Logs(folder))
    model = Constant(FEATURES.inputs, FEATURES.hash)
    yield [
        Engine(Release(model, u.policy, u, {}), store, DecisionLog(folder / u.policy.name))
        for u in (OPTIONAL, BARE)
    ]
    store.close()


def decided(engine: Engine, request: dict) -> dict | None:
    "The decision; None where the request breaks the contract."
    try:
        return engine.decide(request)
    except ContractError:
        return None


@given(request=PLAUSIBLE)
def test_what_may_be_left_out_never_ends_in_an_exception(engines, request):
    for engine in engines:
        decision = decided(engine, request)
        if decision is None:
            continue
        assert decision["degraded"] == [] and decision["probability"] == 0.5
        assert set(answer(decision)) and decision["request"].keys() == Pay.fields.keys()
        if engine is engines[0]:
            _check_exposure(decision)


def _check_exposure(decision: dict) -> None:
    "Without an amount nobody knows the loss, and the last route is taken."
    amount = decision["request"]["amount"]
    if amount is None:
        assert decision["route"] == "human" and decision["expected_loss"] is None
        assert any("amount is missing" in r for r in decision["policy_reasons"])
    else:
        assert decision["expected_loss"] == 0.5 * max(amount, 0.0)


@given(request=ANY_JSON | PLAUSIBLE.flatmap(lambda r: ANY_JSON.map(lambda o: r | o)))
def test_whatever_is_sent_breaks_the_contract_or_is_decided(engines, request):
    for engine in engines:
        decision = decided(engine, request)
        assert decision is None or decision["route"] in engine.release.policy.order


@pytest.mark.parametrize("content", [None, b"", b"\xe9", b"[]", b"{}", b'{"digest": "0"}'])
def test_a_folder_without_a_manifest_is_no_release(tmp_path, content):
    if content is not None:
        (tmp_path / "manifest.json").write_bytes(content)
    with pytest.raises(ContractError, match="manifest.json .*package the release again"):
        load_release(tmp_path)


@pytest.mark.parametrize("given_", [[1], None, "pay", 3, [("who", 1)]])
def test_what_is_no_object_breaks_the_contract(engines, given_):
    with pytest.raises(ContractError, match="a pay is an object, field to value"):
        engines[0].decide(given_)


@pytest.mark.parametrize("given_", [dict(tip=1.5), dict(tip=None), {}])
def test_an_optional_amount_may_be_missing(engines, given_):
    request = OPTIONAL.example | given_
    decision = engines[0].decide(request)
    assert decision["request"]["tip"] == given_.get("tip") and decision["degraded"] == []
