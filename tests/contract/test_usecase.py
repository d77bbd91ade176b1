"A use case is checked where it is written: each mistake is refused with what to do about it."

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

from mlkit.errors import UserError
from mlkit.events import Stream
from mlkit.features import FeatureSet, FeatureView
from mlkit.fields import Category, Fixed, Flag, Key, Text
from mlkit.formats import SourceFormat
from mlkit.policy import Guard, Policy, Route
from mlkit.simulators import Simulator, SimulatorError
from mlkit.splits import LabelRule, Plan
from mlkit.usecase import Invariance, UseCase, UseCaseError, check_policy, load_usecase

ROUTES = (Route("pay"), Route("look", human=True, probability=0.3))


class Claim(Stream):
    "An insurance claim."

    holder = Key()
    sum = Fixed(places=2)
    tip = Fixed(places=2, optional=True)
    channel = Category(values=("web", "desk"), optional=True)
    urgent = Flag()


class Finding(Stream):
    "What it turned out to be."

    claim = Text()
    holder = Key()
    inflated = Flag()
    source = Category(values=("outcome", "review"))


class Holder(FeatureView, key="holder"):
    n = Claim.count(over=["30d"])
    found = Finding.mean("inflated", over=["365d"])


class Row(FeatureView):
    channel = pl.col("channel")
    urgent = pl.col("urgent")


class Other(Stream):
    "Of no use here."

    holder = Key()


FEATURES = FeatureSet(Claim, [Holder, Row])
EXAMPLE = dict(
    event_id="c1",
    event_time="2025-03-01T09:00:00Z",
    holder=7,
    sum=120.5,
    channel="web",
    urgent=True,
)


def reviewed(request: dict, inflated: bool, at: datetime) -> dict:
    "A verdict as a label event."
    return dict(
        event_id=f"{request['event_id']}/review",
        event_time=at,
        claim=request["event_id"],
        holder=request["holder"],
        inflated=inflated,
        source="review",
    )


GOOD = UseCase(
    name="claims",
    request=Claim,
    labels=LabelRule(Finding, refers="claim", value="inflated"),
    formats=[SourceFormat("csv", Claim, columns={n: n for n in Claim.fields})],
    features=FEATURES,
    policy=Policy("p", ROUTES, "sum"),
    plan=Plan(),
    entity="holder",
    example=EXAMPLE,
    review=reviewed,
    increasing=("holder_n_30d",),
)


def guarded(when: str) -> dict:
    return dict(policy=Policy("p", ROUTES, "sum", (Guard("g", when, "?"),)))


def changed(change) -> dict:
    return dict(invariances=(Invariance("i", change),))


def other_claim() -> type[Stream]:
    "A second stream of the same name."
    return type("Finding", (Stream,), dict(claim=Text(), holder=Key(), inflated=Flag()))


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(name="Insurance claims"), "lower-case"),
        (dict(name="né"), "lower-case"),
        (dict(name="_claims"), "a letter first"),
        (dict(request=dict), "is no Stream"),
        (dict(request=Other), "the features are of Claim requests"),
        (dict(policy="strict"), "policy: 'strict' is no Policy"),
        (dict(increasing="holder_n_30d"), "increasing is a list or a tuple"),
        (dict(simulator=lambda path: path), "is no Simulator"),
        # streams and formats
        (
            dict(labels=LabelRule(other_claim(), "claim", "inflated")),
            "called 'finding'.*share a log",
        ),
        (
            dict(formats=[SourceFormat("f", Other, columns={n: n for n in Other.fields})]),
            "fills the stream Other",
        ),
        (dict(formats=GOOD.formats * 2), "two formats are called 'csv'"),
        # fields
        (dict(entity="holdr"), "'holdr' is no field of Claim; did you mean 'holder'"),
        (dict(entity=["holder"]), r"entity \['holder'\] is no field of Claim"),
        (dict(entity="sum"), "'sum' is a Fixed.*must be Key or Text or Category"),
        (dict(policy=Policy("p", ROUTES, "summ")), "exposure 'summ'.*did you mean 'sum'"),
        (dict(policy=Policy("p", ROUTES, "holder")), "'holder' is a Key.*must be Fixed"),
        # features
        (dict(increasing=("holder_n_7d",)), "did you mean 'holder_n_30d'"),
        (dict(increasing=("channel",)), "'channel' is no numeric feature"),
        (changed(lambda v: {**v, "holder_n_7d": 1}), "'holder_n_7d' is no feature; did you mean"),
        (changed(lambda v: {**v, "urgent": v["urgnt"]}), "'urgnt' is no feature; did you mean"),
        (
            changed(lambda v: {**v, "urgent": v["holder_found_365d"] > 0}),
            "without a past: TypeError",
        ),
        (changed(lambda v: {**v, "urgent": {"web": 1}["desk"]}), "everything is known: KeyError"),
        (changed(lambda v: {**v, "urgent": {}["channel"]}), "everything is known: KeyError"),
        (changed(lambda v: {"urgent": False}), "loses"),
        (changed(lambda v: None), "returns None"),
        (changed(lambda v: {**v, "urgent": "yes"}), "'urgent' 'yes'; it is a number or a flag"),
        (changed(lambda v: {**v, "channel": "wbe"}), "'channel' 'wbe'; it is one of web, desk"),
        # guards
        (guarded("holder_n_7d > 5"), "'holder_n_7d' is no field of Claim and no feature; did you"),
        (guarded("true || smu > 5.0"), "did you mean 'sum'"),
        (guarded("urgent > 5"), "could not be evaluated"),
        (guarded("sum + 5.0"), "neither true nor false"),
        (guarded("tip > 5.0"), "tip != null"),
        (guarded("holder_found_365d > 0.5"), "without a past.*holder_found_365d != null"),
        (guarded("sum == 'much'"), "compares sum with 'much'; it is a number"),
        (guarded("'much' != sum"), "compares sum with 'much'; it is a number"),
        (guarded("event_id == 7"), "compares event_id with 7; it is text"),
        (guarded("event_id == sum"), "compares event_id with sum; it is text"),
        (guarded("urgent == 1"), "compares urgent with 1; it is true or false"),
        (guarded("urgent || event_time == 'now'"), "with 'now'; it is a time"),
        (guarded("channel == 'wbe'"), "compares channel with 'wbe'; it is one of web, desk"),
        (guarded("urgent && (channel in ['web', 'dsk'])"), "channel with 'dsk'; it is one of"),
        (guarded("holder_n_30d in ['many']"), "holder_n_30d with 'many'; it is a number"),
        (guarded("[1, 2].exists(x, x > 0) && y > 1"), "'y' is no field"),
        # example, cuts
        (dict(example={}), "the example breaks the contract of Claim: event_id: missing"),
        (dict(example=EXAMPLE | dict(sum="much")), "sum: must be a number"),
        (dict(example=EXAMPLE | dict(event_time=datetime(2025, 1, 1))), "cannot be sent as JSON"),
        (dict(cuts=dict(cvs=datetime(2025, 1, 1, tzinfo=timezone.utc))), "did you mean 'csv'"),
        (dict(cuts=dict(csv=datetime(2025, 1, 1))), "time zone"),
        (dict(cuts=["csv"]), "is no dict"),
        # review
        (dict(review=lambda r, v, at: {}), "review: its label breaks the contract of Finding"),
        (dict(review=lambda r, v, at: reviewed(r, True, at)), "for the verdict False"),
        (dict(review=lambda r, v, at: reviewed(r, v, at + timedelta(1))), "has event_time"),
        (dict(review=lambda r, v, at: reviewed(r["c"], v, at)), "review fails: KeyError"),
    ],
)
def test_a_mistake_is_refused_at_definition(change, message):
    with pytest.raises(UseCaseError, match=message):
        replace(GOOD, **change)


@pytest.mark.parametrize(
    "lengths, message",
    [
        (dict(folds=1), "folds=1"),
        (dict(train=0), "train=0"),
        (dict(wait=-1), "wait=-1"),
        (dict(test=7.5), "test=7.5"),
        (dict(train=3000, wait=3650, test=3650, folds=100, step=30), "years"),
    ],
)
def test_a_plan_that_no_data_could_fill_is_refused(lengths, message):
    with pytest.raises(UserError, match=message):
        replace(GOOD, plan=Plan(**lengths))


@pytest.mark.parametrize(
    "given, message",
    [
        (("i", dict, "sideways"), "'sideways'"),
        (("i", "dict"), "'dict' is no function"),
        (("", dict), "'': name it in words"),
        ((["i"], dict), "name it in words"),
    ],
)
def test_an_invariance_that_could_not_be_tried_is_refused(given, message):
    with pytest.raises(UseCaseError, match=message):
        Invariance(*given)


@pytest.mark.parametrize(
    "when",
    [
        "tip != null && tip > 5.0",
        "channel == 'web' && urgent",
        "holder_n_30d > 5",
        "true",
        "sum == 5 || channel in ['web', null]",
        "channel == null || channel + 'wbe' == 'webwbe'",
        "event_id == 'channel == \\'wbe\\''",
        "[1, 2].exists(x, x > holder_n_30d)",
        "['web', 'x'].filter(c, c != 'x').exists_one(c, c == channel)",
        "[[1], [2]].all(row, row.map(x, x + 1).exists(y, y > 2))",
    ],
)
def test_a_guard_that_copes_with_every_request_is_taken(when):
    replace(GOOD, **guarded(when))


class How(FeatureView, key="holder"):
    came = Claim.last("channel", over=["30d"])


def test_a_feature_is_compared_with_its_own_words_only():
    features = FeatureSet(Claim, [Holder, Row, How])
    replace(GOOD, features=features, **guarded("how_came_30d == 'desk'"))
    with pytest.raises(UseCaseError, match="how_came_30d with 'phone'; it is one of web, desk"):
        replace(GOOD, features=features, **guarded("how_came_30d == 'phone'"))


def test_the_optional_parts_may_be_missing():
    bare = replace(GOOD, review=None, increasing=(), formats=[], policy=Policy("p", ROUTES))
    assert (bare.simulator, bare.review, bare.cuts, bare.policy.exposure) == (None, None, {}, None)


def test_a_packed_policy_is_held_against_the_use_case_too():
    with pytest.raises(UseCaseError, match="'hodler'"):
        check_policy(GOOD, guarded("hodler > 3")["policy"])


def simulate(path: Path, days: int = 3, share: float = 0.5, quick: bool = False) -> Path:
    path.write_text(f"{days} {share} {quick}")
    return path


def test_a_simulators_parameters_stand_in_its_signature(tmp_path):
    made = Simulator(simulate)
    assert [(p.name, p.type, p.default) for p in made.parameters] == [
        ("days", int, 3),
        ("share", float, 0.5),
        ("quick", bool, False),
    ]
    path = made(tmp_path / "made.csv", days="9", quick="yes")
    assert path.read_text() == "9 0.5 True"


def test_a_default_may_hold_what_begins_a_comment():
    def paint(
        path: Path,
        colour: str = "#fff",  # of the walls
        plain: str = "#",
    ) -> Path:
        return path

    assert [p.doc for p in Simulator(paint).parameters] == ["of the walls", ""]


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(day=3), "no parameter 'day'; it takes days"),
        (dict(days="many"), "days='many': give a whole number"),
        (dict(days=2.5), "whole number"),
        (dict(days=True), "whole number"),
        (dict(quick="perhaps"), "true or false"),
        (dict(share="nan"), "share='nan': give a number"),
        (dict(share="1e400"), "give a number"),
    ],
)
def test_a_parameter_that_a_simulator_cannot_use_is_named(given, message):
    with pytest.raises(SimulatorError, match=message):
        Simulator(simulate).read(given)


def untyped(path, days=3):
    return path


def required(path: Path, days: int) -> Path:
    return path


def anything(path: Path, **more: int) -> Path:
    return path


def undecided(path: Path, days: int = None) -> Path:
    return path


def unknown(path: Path, days: Days = 3) -> Path:  # noqa: F821
    return path


def by_name(*, path: Path) -> Path:
    return path


def several(*paths: Path) -> Path:
    return paths[0]


BAD = [untyped, required, anything, undecided, unknown, by_name, several, dict, lambda: None]


@pytest.mark.parametrize("function", [*BAD, "simulate"])
def test_a_simulator_that_cannot_be_called_from_a_command_line_is_refused(function):
    with pytest.raises(SimulatorError):
        Simulator(function)


def test_a_short_name_and_a_module_are_the_same_use_case():
    assert load_usecase("fraud") is load_usecase("mlkit.usecases.fraud")


PROJECT = """
from mlkit.usecases.fraud import usecase as fraud
from dataclasses import replace

usecase = replace(fraud, name="{name}", entity="{entity}")
"""


def test_use_cases_of_other_projects_live_in_one_process(tmp_path):
    "Two modules outside the package, and the kit's own, side by side."
    package = tmp_path / "project"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, entity in [("one", "customer_id"), ("two", "terminal_id")]:
        (package / f"{name}.py").write_text(PROJECT.format(name=name, entity=entity))
    code = (
        "from mlkit.usecase import load_usecase\n"
        "names = ('project.one', 'project.two', 'fraud')\n"
        "print(*((u.name, u.entity) for u in map(load_usecase, names)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"],
        capture_output=True,
        text=True,
    )
    assert done.stdout.split(") (")[1] == "'two', 'terminal_id'", done.stderr


@pytest.mark.parametrize(
    "name, message",
    [
        ("nothing", "'mlkit.usecases.nothing'; set `usecase`"),
        ("no.such.module", "install the project it is in"),
        ("mlkit.policy", "has no `usecase`"),
    ],
)
def test_a_use_case_that_is_not_there_is_named(name, message):
    with pytest.raises(ImportError, match=message):
        load_usecase(name)


def test_a_use_case_that_fails_when_it_is_imported_is_named(tmp_path, monkeypatch):
    (tmp_path / "dividing").mkdir()
    (tmp_path / "dividing" / "case.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ImportError, match="dividing.case cannot be loaded: ZeroDivisionError"):
        load_usecase("dividing.case")
