"A policy's routes are one declaration, and what contradicts itself is refused where it is written."

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import pytest

from mlkit.policy import Guard, Policy, PolicyError, Route, load_policy, route, save_policy

ROUTES = (
    Route("accept"),
    Route("deposit", probability=0.2, loss=25.0),
    Route("human", human=True, probability=0.6, loss=300.0),
)
CROWD = Guard("crowd", "guests > 8", "a crowd", route="deposit")
LONG = Guard("long", "nights > 60", "a long stay")


def policy(routes=ROUTES, exposure="price", guards=(CROWD, LONG)) -> Policy:
    return Policy("three", routes, exposure, guards)


def taken(p: float, price: float | None = 10.0, guests: int = 2, nights: int = 2, **change) -> str:
    "The name of the route of one request."
    request = dict(price=price, guests=guests, nights=nights)
    return route(policy(**change), p, request, {}).route.name


@pytest.mark.parametrize(
    "request_, expected",
    [
        (dict(p=0.1), "accept"),
        (dict(p=0.2), "deposit"),
        (dict(p=0.6), "human"),
        (dict(p=0.1, price=250.0), "deposit"),
        (dict(p=0.1, price=3000.0), "human"),
        (dict(p=0.1, guests=9), "deposit"),
        (dict(p=0.1, nights=61), "human"),
        (dict(p=0.1, guests=9, nights=61), "human"),
        (dict(p=0.9, guests=9), "human"),
        (dict(p=float("nan")), "human"),
    ],
)
def test_the_most_careful_route_that_is_reached_is_taken(request_, expected):
    assert taken(**request_) == expected


def test_an_unknown_exposure_goes_to_the_last_route_with_a_reason():
    request = dict(price=None, guests=2, nights=2)
    routed = route(policy(), 0.01, request, {})
    assert routed.route.name == "human" and routed.band.name == "accept"
    assert routed.expected_loss is None
    assert "price is missing" in routed.policy_reasons[0]


def test_without_an_exposure_there_is_no_expected_loss():
    routes = (Route("accept"), Route("human", human=True, probability=0.5))
    bare = Policy("bare", routes)
    routed = route(bare, 0.4, {}, {})
    assert (routed.route.name, routed.expected_loss) == ("accept", None)


def test_guards_only_ever_raise():
    guards = [(), (CROWD,), (LONG,), (CROWD, LONG)]
    for p, guests, nights in product((0.0, 0.2, 0.5, 0.6, 1.0), (1, 9), (1, 61)):
        care = [policy().order[taken(p, 1.0, guests, nights, guards=g)] for g in guards]
        assert care[0] <= min(care[1:3]) and care[3] == max(care)


def test_a_guard_that_cannot_be_evaluated_counts_as_met():
    request = dict(price=1.0, guests=None, nights=2)
    routed = route(policy(), 0.0, request, {})
    assert routed.route.name == "deposit" and "could not be evaluated" in routed.policy_reasons[0]


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda: Route("Accept it"), "lower-case letters"),
        (lambda: Route("a", probability=1.5), "from 0 to 1"),
        (lambda: Route("a", loss=-1.0), "not negative"),
        (lambda: Route("a", human="yes"), "True or False"),
        (lambda: Guard("g", "guests >", "?"), "no CEL expression"),
        (lambda: Guard("g", None, "?"), "no CEL expression"),
        (lambda: Guard("g", "guests > 8", ""), "plain words"),
        (lambda: Guard("g", "guests > 8", None), "plain words"),
        (lambda: policy(routes=()), "routes is empty"),
        (lambda: policy(routes=("accept", "human")), "tuple of Route"),
        (lambda: policy(routes=ROUTES[:2], guards=()), "'deposit', is automatic"),
        (lambda: policy(routes=ROUTES[1:]), "the first route, 'deposit'"),
        (lambda: policy(routes=(*ROUTES[:1], *ROUTES)), "two routes are called 'accept'"),
        (lambda: policy(routes=(ROUTES[0], Route("wait"), ROUTES[2]), guards=()), "never be taken"),
        (lambda: policy(routes=(*ROUTES[:2], Route("human", True, 0.1))), "thresholds rise"),
        (lambda: policy(exposure=None), "the policy no exposure"),
        (lambda: policy(guards=(replace(CROWD, route="cash"),)), "the routes are accept, deposit"),
        (lambda: policy(guards=(replace(CROWD, route="accept"),)), "which raises nothing"),
        (lambda: policy(guards=(CROWD, CROWD)), "two guards are called 'crowd'"),
        (lambda: Policy("", ROUTES, "price"), "a policy has a name"),
        (lambda: policy(exposure=["price"]), r"exposure = \['price'\]: name a field"),
        (lambda: policy(exposure=""), "exposure = '': name a field"),
        (lambda: replace(CROWD, route=["human"]), r"raises to \['human'\]; name a route"),
        (lambda: replace(CROWD, route=None), "raises to None; name a route"),
    ],
)
def test_what_contradicts_itself_is_refused(write, message):
    with pytest.raises(PolicyError, match=message):
        write()


def test_the_document_carries_the_routes(tmp_path):
    save_policy(policy(), tmp_path / "policy.json")
    document = json.loads((tmp_path / "policy.json").read_text())
    assert [r["name"] for r in document["routes"]] == ["accept", "deposit", "human"]
    back = load_policy(tmp_path / "policy.json")
    assert back == policy() and back.hash == policy().hash


def test_every_part_is_in_the_hash():
    changed = [
        policy(routes=(*ROUTES[:2], replace(ROUTES[2], probability=0.7))),
        policy(guards=(CROWD,)),
        policy(guards=(CROWD, replace(LONG, when="nights > 61"))),
    ]
    assert len({p.hash for p in [policy(), *changed]}) == 4


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b'{"name": "p", "max_probability": 0.1}', b'{"name": "\xe9"}']
)
def test_what_is_no_policy_document_is_named(tmp_path, content):
    (tmp_path / "policy.json").write_bytes(content)
    with pytest.raises(PolicyError, match="is no policy"):
        load_policy(tmp_path / "policy.json")


@pytest.mark.parametrize("reason", ["", " ", None])
def test_a_guard_without_a_reason_is_refused(reason):
    "An empty reason would be read as: not met."
    with pytest.raises(PolicyError, match="say the reason"):
        Guard("g", "amount > 1.0", reason)
