"""Who can decide: Foresail and every rival by name, with how each is set up, driven and swept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from controller.errors import BadInput
from policies.decide import Foresail
from policies.decisions import Policy
from policies.fleet import PoolKey, Role
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
from simulations.peers.rhythm import KvRhythm, Rhythm
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
            Few: every one is a run. A search of a rival's settings reaches from end to end of it (``tuning.space``).
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


def _kv_full(case: Case, settings: KvRhythm) -> dict[str, float]:
    """Return the KV cache use of one replica at its tested load where that is to count as full, else nothing.

    Requests in the test held their prompt and on average half of their output, at the trace's mean lengths; to be
    prefilled, their prompt.
    """
    if not settings.kv_of_tested:
        return {}
    requests, prompts, outputs = (float(rate) for rate in case.load.values.sum(axis=0))
    held = {Role.PREFILL: prompts / max(requests, 1e-9)}
    all_of_it = (prompts + outputs / 2.0) / max(requests, 1e-9)
    return {
        str(pool.key): min(
            1.0,
            max(1e-6, pool.concurrency * held.get(pool.key.role, all_of_it) / pool.settings.profile.kv_cache_tokens),
        )
        for pool in case.pools
    }


def _hpa(case: Case) -> Started:
    own = case.settings.hpa
    return Hpa(case.policy.pools, _requests(case, own.target_ratio), own), case.first


def _keda(case: Case) -> Started:
    return Keda(case.policy.pools, case.settings.keda), case.first


def _keda_tokens(case: Case) -> Started:
    own = case.settings.keda_tokens
    return KedaTokens(case.policy.pools, own, _kv_full(case, own)), case.first


def _knative(case: Case) -> Started:
    own = case.settings.knative
    return Knative(case.policy.pools, _requests(case, own.target_ratio), own), case.first


def _aibrix_apa(case: Case) -> Started:
    own = case.settings.aibrix_apa
    return AibrixApa(case.policy.pools, own, _kv_full(case, own)), case.first


def _aibrix_kpa(case: Case) -> Started:
    own = case.settings.aibrix_kpa
    return AibrixKpa(case.policy.pools, own, _kv_full(case, own)), case.first


def _wva(case: Case) -> Started:
    own = case.settings.wva
    return Wva(case.policy.pools, own, _kv_full(case, own)), case.first


def _dynamo_throughput(case: Case) -> Started:
    own = case.settings.dynamo_throughput
    return DynamoLoad(case.policy.pools, own, "dynamo-throughput", _kv_full(case, own)), case.first


def _dynamo_latency(case: Case) -> Started:
    own = case.settings.dynamo_latency
    return DynamoLoad(case.policy.pools, own, "dynamo-latency", _kv_full(case, own)), case.first


def _dynamo_sla(case: Case) -> Started:
    return DynamoSla(case.policy.pools, case.policy.objective, case.settings.dynamo_sla, case.before), case.first


def _ray_serve(case: Case) -> Started:
    own = case.settings.ray_serve
    targets = {} if own.target_ratio is None else _requests(case, own.target_ratio)
    return RayServe(case.policy.pools, own, targets), case.first


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


def _thresholds(part: str, *pairs: tuple[float, float]) -> tuple[str, ...]:
    """Return upper and lower thresholds of Dynamo as shares of the KV cache used at the tested load."""
    return tuple(f"{part}.kv_of_tested=true {part}.up_ratio={up} {part}.down_ratio={down}" for up, down in pairs)


def _kv_grid(part: str, *ratios: float, also: str = "") -> tuple[str, ...]:
    """Return targets of KV cache use as shares of that at the tested load."""
    return tuple(f"{part}.kv_of_tested=true {part}.kv_cache_ratio={ratio:g} {also}".strip() for ratio in ratios)


CATALOGUE: Mapping[str, Entry] = {
    "foresail": Entry(
        lambda case: (Foresail(case.policy), case.first),
        _grid("policy.scaling.headroom_ratio", 0.0, 0.05, 0.1, 0.15, 0.3, 0.4),
    ),
    "hpa": Entry(_hpa, _grid("hpa.target_ratio", 0.4, 0.5, 0.6, 0.75, 0.8, 0.9)),
    "keda": Entry(_keda, _grid("keda.threshold", 0.1, 0.25, 0.5, 1, 2, 10)),
    "keda-tokens": Entry(
        _keda_tokens,
        (
            *_kv_grid("keda_tokens", 0.5, 0.7, 0.9),
            *_kv_grid("keda_tokens", 0.4, 0.5, 0.6, 0.8, also="keda_tokens.up_replicas=4 keda_tokens.up_period_s=15"),
        ),
    ),
    "knative": Entry(
        _knative,
        (
            *_grid("knative.target_ratio", 0.3, 0.4, 0.5, 0.6),
            *(f"knative.scale_down_delay_s=300 knative.target_ratio={ratio}" for ratio in (0.5, 0.6, 0.7, 0.8)),
        ),
    ),
    "aibrix-apa": Entry(
        _aibrix_apa, (*_grid("aibrix_apa.kv_cache_ratio", 0.3), *_kv_grid("aibrix_apa", 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    ),
    "aibrix-kpa": Entry(
        _aibrix_kpa, (*_grid("aibrix_kpa.kv_cache_ratio", 0.3), *_kv_grid("aibrix_kpa", 0.4, 0.5, 0.6, 0.7, 0.8, 0.9))
    ),
    "wva": Entry(
        _wva,
        (
            "wva.up_window_s=0",
            *(
                f"wva.up_window_s=0 wva.kv_of_tested=true wva.kv_spare_trigger={spare}"
                for spare in (0.05, 0.1, 0.2, 0.3, 0.4)
            ),
        ),
    ),
    "dynamo-throughput": Entry(
        _dynamo_throughput,
        (
            "dynamo_throughput.up_ratio=0.7 dynamo_throughput.down_ratio=0.4",
            *_thresholds("dynamo_throughput", (1.0, 0.6), (0.9, 0.5), (0.8, 0.5), (0.7, 0.4), (0.6, 0.3)),
        ),
    ),
    "dynamo-latency": Entry(
        _dynamo_latency,
        (
            "dynamo_latency.up_ratio=0.3 dynamo_latency.down_ratio=0.1",
            *_thresholds("dynamo_latency", (0.4, 0.1), (0.5, 0.2), (0.6, 0.2), (0.7, 0.3), (0.8, 0.4)),
        ),
    ),
    "dynamo-sla": Entry(
        _dynamo_sla,
        (
            *_grid("dynamo_sla.profile_ratio", 0.3, 0.4, 0.5, 0.6, 0.7, 0.85),
            "dynamo_sla.down_sensitivity=0.5 dynamo_sla.profile_ratio=0.6",
        ),
    ),
    "ray-serve": Entry(_ray_serve, _grid("ray_serve.target_ratio", 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)),
    "skyserve": Entry(_skyserve, _grid("skyserve.target_ratio", 0.4, 0.5, 0.6, 0.65, 0.8, 0.9)),
    "last-week": Entry(
        _last_week,
        (*_grid("last_week.target_ratio", 0.5, 0.6, 0.75, 0.8, 0.9), *_grid("last_week.ahead_s", 300, 600)),
    ),
    "phpa": Entry(
        _phpa,
        (
            *(
                f"phpa.alpha=0.5 phpa.beta=0.1 phpa.gamma=0.1 phpa.target_ratio={ratio}"
                for ratio in (0.7, 0.8, 0.9, 1.0)
            ),
            *(
                f"phpa.per_interval=20 phpa.seasonal_periods=288 phpa.alpha=0.5 phpa.beta=0.1 phpa.gamma=0.3"
                f" phpa.target_ratio={ratio}"
                for ratio in (0.7, 0.8)
            ),
        ),
    ),
    "static": Entry(_static, _grid("static.utilisation_ratio", 0.6, 0.7, 0.8, 1.0)),
    "clairvoyant": Entry(_clairvoyant, _grid("clairvoyant.utilisation_ratio", 0.7, 0.8, 0.85, 0.95, 1.0)),
}
"""By the names of ``names.DESCRIBED``."""
