"""How are shares of traffic read from a route object, and which patch changes them and nothing else?

Two kinds of route are understood: HTTPRoute of the Gateway API, whose backends are Services or InferencePools, and
VirtualService of Istio, whose destinations are hosts with a subset. In both, a rule sends a request to one of a list of
backends by integer weights, and the share of each is its weight over their sum.

A rule is ours if it lists all pools of the model. What else stands in it stays: matches, filters, time-outs, other
rules, and backends that are no pool of ours, whose weights keep their share of the sum. All rules that are ours must
say the same: somebody who set them apart wanted something that a share per model cannot say.

A patch tests what it was made from, the version of the object and the name at each place, so that it fails where the
list has changed meanwhile. Everything here is pure; nothing is read or written.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from controller.errors import ActuationError, ObservationError
from policies.fleet import PoolKey

Json: TypeAlias = Mapping[str, Any]
RouteKind: TypeAlias = Literal["HTTPRoute", "VirtualService"]

WHOLE = 10_000
"""What our weights add up to where nothing else is in the rule: a share is then off by less than a ten-thousandth."""

MOST_WEIGHT = 1_000_000
"""Largest weight that the Gateway API admits."""

SAME_SHARE = 1.5 / WHOLE
"""Shares that differ by less are the same: what is left of rounding."""


@dataclass(frozen=True, slots=True)
class Backend:
    """One entry of the list of a rule.

    Attributes:
        path: Where it stands, as a JSON pointer; its weight is ``path``/weight.
        rule: Number of its rule.
        name: What a pool's backend is called in the settings: ``name`` or ``namespace/name`` of a Service or
            InferencePool, ``host`` or ``host/subset`` of an Istio destination.
        named_at: Pointer to, and value of, the field that tells it apart; tested by patches.
        weight: Its weight; what is not given counts as the API says.
        given: Whether the weight is given.
        kind: Of the object that it names: Service, InferencePool or another; empty where that cannot be told.
    """

    path: str
    rule: int
    name: str
    named_at: tuple[str, str]
    weight: int
    given: bool
    kind: str = "Service"


def backends_of(kind: RouteKind, route: Json) -> list[Backend]:
    """Return every backend of every rule, in order.

    Raises:
        ObservationError: If the object is not of the form that its API has.
    """
    try:
        return list(_http_route(route) if kind == "HTTPRoute" else _virtual_service(route))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ObservationError(f"the rules cannot be read: {error!r}", _where(kind, route)) from None


def object_of(kind: RouteKind, namespace: str, backend: str) -> tuple[str, str] | None:
    """Return namespace and name of the object that a backend names in a route of ``namespace``.

    Of a host of Istio that is its Service; None where the host is none of the cluster.

    >>> object_of("HTTPRoute", "prod", "other/llama"), object_of("VirtualService", "prod", "llama/canary")
    (('other', 'llama'), ('prod', 'llama'))
    >>> object_of("VirtualService", "prod", "llama.other.svc.cluster.local")
    ('other', 'llama')
    """
    if kind == "HTTPRoute":
        place, slash, name = backend.rpartition("/")
        return (place if slash else namespace), name
    name, *domain = backend.partition("/")[0].split(".")
    if not domain:
        return namespace, name
    return (domain[0], name) if domain[1:2] == ["svc"] else None


def shares_of(kind: RouteKind, route: Json, pools: Mapping[PoolKey, str]) -> Mapping[PoolKey, float]:
    """Return the share of new requests of each pool, in [0, 1]; they add up to 1 unless all are 0.

    Args:
        kind: Of the route.
        route: The object.
        pools: What each pool of the model is called in the route.

    Raises:
        ObservationError: If no rule lists all pools, or rules that do so share requests out differently.
    """
    first, *others = (_shares(rule) for rule in _ours(kind, route, pools))
    for shares in others:
        if any(abs(shares[pool] - first[pool]) >= SAME_SHARE for pool in pools):
            raise ObservationError(
                f"its rules share requests out differently: {_told(first)} and {_told(shares)}",
                _where(kind, route),
                "give the pools the same weights in every rule that lists them all, or route the others elsewhere",
            )
    return first


def patch_for(
    kind: RouteKind, route: Json, pools: Mapping[PoolKey, str], shares: Mapping[PoolKey, float]
) -> list[dict[str, Any]]:
    """Return the JSON patch that gives the pools these shares of what comes to them now; empty when they have them.

    Args:
        kind: Of the route.
        route: The object as it was read; the patch holds for this version of it alone.
        pools: What each pool of the model is called in the route.
        shares: What each is to have; they need not add up to 1.

    Raises:
        ActuationError: If a share is no share, or none is left.
        ObservationError: As ``shares_of``.
    """
    wanted = _wanted(kind, route, pools, shares)
    rules = _ours(kind, route, pools)
    if all(_has(rule, wanted) for rule in rules):
        return []
    patch: list[dict[str, Any]] = []
    for rule in rules:
        for backend, weight in _new_weights(kind, route, rule, wanted):
            patch.append({"op": "test", "path": backend.named_at[0], "value": backend.named_at[1]})
            patch.append({"op": "add", "path": f"{backend.path}/weight", "value": weight})
    if not patch:  # as close as whole weights come
        return []
    version = route["metadata"]["resourceVersion"]
    return [{"op": "test", "path": "/metadata/resourceVersion", "value": version}, *patch]


def _http_route(route: Json) -> Iterator[Backend]:
    own = route["metadata"].get("namespace", "")
    for number, rule in enumerate(route["spec"].get("rules", ())):
        for place, ref in enumerate(rule.get("backendRefs") or ()):
            called, namespace = _text(ref["name"]), ref.get("namespace", own)
            name = called if namespace == own else f"{namespace}/{called}"
            path = f"/spec/rules/{number}/backendRefs/{place}"
            told = f"{path}/name", called
            kind = _text(ref.get("kind", "Service"))
            yield Backend(path, number, name, told, _int(ref.get("weight", 1)), "weight" in ref, kind)


def _virtual_service(route: Json) -> Iterator[Backend]:
    own = route["metadata"].get("namespace", "")
    for number, rule in enumerate(route["spec"].get("http") or ()):
        destinations = rule.get("route") or ()
        for place, entry in enumerate(destinations):
            to = entry["destination"]
            host, subset = _text(to["host"]), _text(to.get("subset", ""))
            path = f"/spec/http/{number}/route/{place}"
            name, field = (f"{host}/{subset}", "subset") if subset else (host, "host")
            told = f"{path}/destination/{field}", to[field]
            alone = 100 if len(destinations) == 1 else 0
            kind = "Service" if object_of("VirtualService", own, name) else ""
            yield Backend(path, number, name, told, _int(entry.get("weight", alone)), "weight" in entry, kind)


def _text(told: Any) -> str:
    if not isinstance(told, str):
        raise TypeError(f"a name of {told!r}")
    return told


def _int(weight: Any) -> int:
    if type(weight) is not int or not 0 <= weight <= MOST_WEIGHT:
        raise ValueError(f"a weight of {weight!r}")
    return weight


def _ours(kind: RouteKind, route: Json, pools: Mapping[PoolKey, str]) -> list[Mapping[PoolKey, Backend]]:
    """Return the pools' backends in each rule that lists all of them."""
    rules: dict[int, dict[str, Backend]] = {}
    twice: set[int] = set()
    for backend in backends_of(kind, route):
        there = rules.setdefault(backend.rule, {})
        if backend.name in there:
            twice.add(backend.rule)
        there[backend.name] = backend
    found: list[Mapping[PoolKey, Backend]] = []
    for number, there in rules.items():
        if not all(name in there for name in pools.values()):
            continue
        if number in twice:
            raise ObservationError(f"rule {number} lists a backend twice", _where(kind, route), "list each once")
        found.append({pool: there[name] for pool, name in pools.items()})
    if not found or not pools:
        listed = sorted({name for there in rules.values() for name in there})
        raise ObservationError(
            f"no rule lists {', '.join(pools.values())}; it lists {', '.join(listed) or 'nothing'}",
            _where(kind, route),
            "list all pools of the model as backends of one rule, with weight 0 where they are to get nothing",
        )
    return found


def _shares(rule: Mapping[PoolKey, Backend]) -> Mapping[PoolKey, float]:
    total = sum(backend.weight for backend in rule.values())
    return {pool: backend.weight / total if total else 0.0 for pool, backend in rule.items()}


def _wanted(
    kind: RouteKind, route: Json, pools: Mapping[PoolKey, str], shares: Mapping[PoolKey, float]
) -> Mapping[PoolKey, float]:
    """Return the shares of all pools, adding up to 1."""
    where = _where(kind, route)
    strangers = [str(pool) for pool in shares if pool not in pools]
    if strangers:
        raise ActuationError(f"{', '.join(strangers)} is no backend of the route", where, "name it in the settings")
    given = {pool: float(shares.get(pool, 0.0)) for pool in pools}
    if not all(0 <= share <= 1 + 1e-6 for share in given.values()):
        raise ActuationError(f"no shares: {_told(given)}", where)
    total = sum(given.values())
    if total < SAME_SHARE:
        raise ActuationError("nobody would be left to answer: all shares are 0", where)
    return {pool: share / total for pool, share in given.items()}


def _has(rule: Mapping[PoolKey, Backend], wanted: Mapping[PoolKey, float]) -> bool:
    """Return whether the shares are these: alike within rounding, and nobody on or off that is to be the other."""
    shares = _shares(rule)
    return all(
        abs(shares[pool] - share) < SAME_SHARE and (shares[pool] > 0) == (share > 0) for pool, share in wanted.items()
    )


def _new_weights(
    kind: RouteKind, route: Json, rule: Mapping[PoolKey, Backend], wanted: Mapping[PoolKey, float]
) -> Iterator[tuple[Backend, int]]:
    """Yield the backends of a rule whose weight changes. All may grow alike, so that ours can be shared out finely.

    Backends that are no pool of ours keep their share of the rule, and so do all of ours together.
    """
    number, own = next(iter(rule.values())).rule, {backend.path for backend in rule.values()}
    others = [b for b in backends_of(kind, route) if b.rule == number and b.path not in own and b.weight]
    ours = sum(backend.weight for backend in rule.values())
    if not others:
        total, factor = WHOLE, 1.0
    elif ours:
        # One of ours may get all that several had, so that all of theirs has to be admissible as one weight.
        finest = MOST_WEIGHT / max(ours, *(backend.weight for backend in others))
        factor = min(finest, math.ceil(WHOLE / ours))
        factor = math.floor(factor) if factor >= 1 else factor
        total = max(round(ours * factor), sum(share > 0 for share in wanted.values()))
    else:
        raise ActuationError(
            f"{', '.join(backend.name for backend in others)} get all that comes to rule {number}",
            _where(kind, route),
            "give our pools a part of it: how much of a rule that others share is ours is not for us to say",
        )
    new = [(rule[pool], weight) for pool, weight in _whole(wanted, total).items()]
    new += [(backend, max(1, round(backend.weight * factor))) for backend in others]
    yield from ((backend, weight) for backend, weight in new if backend.weight != weight or not backend.given)


def _whole(shares: Mapping[PoolKey, float], total: int) -> Mapping[PoolKey, int]:
    """Return whole weights that add up to ``total``: who gets anything gets 1 at least, the largest what is over."""
    weights = {pool: max(1, math.floor(share * total)) if share > 0 else 0 for pool, share in shares.items()}
    largest = max(shares, key=lambda pool: (shares[pool], pool))
    weights[largest] += total - sum(weights.values())
    return weights


def _told(shares: Mapping[PoolKey, float]) -> str:
    return ", ".join(f"{pool.pool} {share:.4g}" for pool, share in shares.items())


def _where(kind: RouteKind, route: Json) -> str:
    metadata = route.get("metadata")
    told = metadata if isinstance(metadata, Mapping) else {}
    return f"{kind} {told.get('namespace', '')}/{told.get('name', '')}"
