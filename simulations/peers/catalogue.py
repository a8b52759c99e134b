"""Who can decide: Foresail and every rival by name, with how each is set up, driven and swept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from controller.errors import BadInput
from policies.decide import Foresail
from policies.decisions import Policy
from policies.fleet import PoolKey
from simulations.case import Case, SimulationSettings
from simulations.peers.aibrix_apa import AibrixApa
from simulations.peers.aibrix_kpa import AibrixKpa
from simulations.peers.clairvoyant import Clairvoyant, plan_ahead
from simulations.peers.dynamo_load import DynamoLoad
from simulations.peers.dynamo_sla import DynamoSla
from simulations.peers.hpa import Hpa
from simulations.peers.keda import Keda
from simulations.peers.keda_tokens import KedaTokens
from simulations.peers.knative import Knative
from simulations.peers.last_week import LastWeek
from simulations.peers.names import POLICIES
from simulations.peers.phpa import Phpa
from simulations.peers.ray_serve import RayServe
from simulations.peers.rhythm import Rhythm
from simulations.peers.skyserve import SkyServe
from simulations.peers.static import Static
from simulations.peers.wva import Wva
from simulations.sizing import covering, replicas_for

Started: TypeAlias = tuple[Policy, Mapping[PoolKey, int]]
"""A policy, and the replicas that its run begins with."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One policy.

    Attributes:
        build: Returns it for a prepared case, with the replicas that its run begins with.
        grid: Settings that a sweep tries beside the defaults, each as ``--set`` takes it, several separated by a space.
            Few: every one is a run.
    """

    build: Callable[[Case], Started]
    grid: tuple[str, ...]


def policy_of(name: str, case: Case) -> Started:
    """Return the policy of that name, with the replicas that its run begins with.

    Raises:
        BadInput: If there is no such policy.
    """
    if name not in CATALOGUE:
        raise BadInput(f"no policy is called {name!r}", "policy", f"known: {', '.join(POLICIES)}")
    return CATALOGUE[name].build(case)


def rhythm_of(name: str, settings: SimulationSettings) -> Rhythm:
    """Return how often that policy decides, and how fresh its figures are; as Foresail where it has no own rhythm."""
    own = getattr(settings, part_of(name), None)
    return own if isinstance(own, Rhythm) else Rhythm(tick_s=settings.policy.tick_s)


def part_of(name: str) -> str:
    """Return the part of the settings that is about that policy, as in ``--set knative.target_ratio=0.8``."""
    return name.replace("-", "_")


def _grid(key: str, *values: float) -> tuple[str, ...]:
    return tuple(f"{key}={value:g}" for value in values)


def _requests(case: Case, ratio: float) -> dict[str, float]:
    """Return a share of the requests that one replica of each pool held in its load test."""
    return {str(pool.key): pool.concurrency * ratio for pool in case.pools}


def _rates(case: Case, ratio: float) -> dict[str, float]:
    """Return a share of the requests/s that one replica of each pool sustained in its load test."""
    return {str(pool.key): pool.requests_per_s * ratio for pool in case.pools}


def _hpa(case: Case) -> Started:
    own = case.settings.hpa
    return Hpa(case.policy.pools, _requests(case, own.target_ratio), own), case.first


def _keda(case: Case) -> Started:
    return Keda(case.policy.pools, case.settings.keda), case.first


def _keda_tokens(case: Case) -> Started:
    return KedaTokens(case.policy.pools, case.settings.keda_tokens), case.first


def _knative(case: Case) -> Started:
    own = case.settings.knative
    return Knative(case.policy.pools, _requests(case, own.target_ratio), own), case.first


def _aibrix_apa(case: Case) -> Started:
    return AibrixApa(case.policy.pools, case.settings.aibrix_apa), case.first


def _aibrix_kpa(case: Case) -> Started:
    return AibrixKpa(case.policy.pools, case.settings.aibrix_kpa), case.first


def _wva(case: Case) -> Started:
    return Wva(case.policy.pools, case.settings.wva), case.first


def _dynamo_throughput(case: Case) -> Started:
    return DynamoLoad(case.policy.pools, case.settings.dynamo_throughput, "dynamo-throughput"), case.first


def _dynamo_latency(case: Case) -> Started:
    return DynamoLoad(case.policy.pools, case.settings.dynamo_latency, "dynamo-latency"), case.first


def _dynamo_sla(case: Case) -> Started:
    return DynamoSla(case.policy.pools, case.policy.objective, case.settings.dynamo_sla, case.before), case.first


def _ray_serve(case: Case) -> Started:
    return RayServe(case.policy.pools, case.settings.ray_serve), case.first


def _skyserve(case: Case) -> Started:
    own = case.settings.skyserve
    return SkyServe(case.policy.pools, _rates(case, own.target_ratio), own), case.first


def _last_week(case: Case) -> Started:
    own = case.settings.last_week
    requests, rates = _requests(case, own.target_ratio), _rates(case, own.target_ratio)
    return LastWeek(case.policy.pools, requests, rates, own, case.before), case.first


def _phpa(case: Case) -> Started:
    own = case.settings.phpa
    return Phpa(case.policy.pools, _requests(case, own.target_ratio), own), case.first


def _static(case: Case) -> Started:
    fixed, objective = case.settings.static, case.policy.objective
    needed = replicas_for(case.load, fixed.peak_window_s, fixed.utilisation_ratio, objective, case.pools)
    return Static(covering(needed)), covering(needed)


def _clairvoyant(case: Case) -> Started:
    settings, known = case.settings, case.settings.clairvoyant
    needed = replicas_for(case.load, known.smoothing_s, known.utilisation_ratio, case.policy.objective, case.pools)
    ahead_s = settings.lead_time_s * known.lead_time_ratio + case.policy.tick_s
    start_at, step_s = settings.fleet.epoch_at, case.load.step_s
    plans = {key: plan_ahead(need, start_at, step_s, ahead_s) for key, need in needed.items()}
    return Clairvoyant(plans), case.first


CATALOGUE: Mapping[str, Entry] = {
    "foresail": Entry(
        lambda case: (Foresail(case.policy), case.first),
        _grid("policy.scaling.headroom_ratio", 0.0, 0.08, 0.15, 0.3, 0.4, 0.55),
    ),
    "hpa": Entry(
        _hpa,
        _grid("hpa.target_ratio", 0.4, 0.5, 0.6, 0.8, 0.9, 1.0),
    ),
    "keda": Entry(
        _keda,
        _grid("keda.threshold", 0.25, 0.5, 1, 2, 10),
    ),
    "keda-tokens": Entry(
        _keda_tokens,
        (
            *_grid("keda_tokens.kv_cache_ratio", 0.2, 0.3, 0.4, 0.5, 0.6),
            "keda_tokens.kv_cache_ratio=0.4 keda_tokens.up_replicas=4 keda_tokens.up_period_s=15",
        ),
    ),
    "knative": Entry(
        _knative,
        _grid("knative.target_ratio", 0.4, 0.5, 0.6, 0.8, 0.9, 1.0),
    ),
    "aibrix-apa": Entry(_aibrix_apa, _grid("aibrix_apa.kv_cache_ratio", 0.15, 0.2, 0.3, 0.4, 0.6, 0.7)),
    "aibrix-kpa": Entry(
        _aibrix_kpa,
        _grid("aibrix_kpa.kv_cache_ratio", 0.15, 0.2, 0.3, 0.4, 0.6, 0.7),
    ),
    "wva": Entry(
        _wva,
        (
            *_grid("wva.kv_spare_trigger", 0.3, 0.5),
            "wva.up_window_s=0",
            *(f"wva.up_window_s=0 wva.kv_spare_trigger={spare}" for spare in (0.3, 0.4, 0.5, 0.6)),
        ),
    ),
    "dynamo-throughput": Entry(
        _dynamo_throughput,
        tuple(
            f"dynamo_throughput.up_ratio={up} dynamo_throughput.down_ratio={down}"
            for up, down in ((0.9, 0.5), (0.8, 0.5), (0.7, 0.4), (0.6, 0.3), (0.5, 0.3))
        ),
    ),
    "dynamo-latency": Entry(
        _dynamo_latency,
        tuple(
            f"dynamo_latency.up_ratio={up} dynamo_latency.down_ratio={down}"
            for up, down in ((0.2, 0.05), (0.3, 0.1), (0.4, 0.2), (0.5, 0.2), (0.6, 0.3))
        ),
    ),
    "dynamo-sla": Entry(
        _dynamo_sla,
        (
            *_grid("dynamo_sla.profile_ratio", 0.5, 0.6, 0.7, 0.8, 0.9),
            *_grid("dynamo_sla.down_sensitivity", 0.6),
        ),
    ),
    "ray-serve": Entry(
        _ray_serve,
        _grid("ray_serve.target_ongoing_requests", 4, 8, 12, 16, 24, 32, 48),
    ),
    "skyserve": Entry(_skyserve, _grid("skyserve.target_ratio", 0.4, 0.5, 0.6, 0.8, 0.9, 1.0)),
    "last-week": Entry(
        _last_week,
        (*_grid("last_week.target_ratio", 0.5, 0.6, 0.8, 0.9, 1.0), *_grid("last_week.ahead_s", 300)),
    ),
    "phpa": Entry(
        _phpa,
        (
            *_grid("phpa.target_ratio", 0.6, 0.8, 0.9, 1.0),
            "phpa.alpha=0.5 phpa.beta=0.1 phpa.gamma=0.1",
            "phpa.alpha=0.5 phpa.beta=0.1 phpa.gamma=0.1 phpa.target_ratio=0.9",
            "phpa.per_interval=20 phpa.seasonal_periods=288 phpa.alpha=0.5 phpa.beta=0.1 phpa.gamma=0.3",
        ),
    ),
    "static": Entry(_static, _grid("static.utilisation_ratio", 0.6, 0.7, 0.8, 1.0)),
    "clairvoyant": Entry(
        _clairvoyant,
        _grid("clairvoyant.utilisation_ratio", 0.7, 0.8, 0.85, 0.95, 1.0),
    ),
}
"""By the names of ``names.DESCRIBED``."""
