"""How well did a policy do: what every request got, what every GPU cost, in one row of figures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from controller.ports import TickRecord
from policies.fleet import FleetState, PoolState
from policies.roster import Floats
from policies.wire import canonical_json
from simulations import tallies
from simulations.tallies import Results
from simulations.turnover import TurnoverWatch

BIN_S = tallies.BIN_S
"""Length of a step of the curves in a report, in seconds."""


@dataclass(frozen=True, slots=True)
class Scorecard:
    """One run in figures. A latency is NaN when no request has one; JSON writes it as null.

    Attributes:
        failed: Requests that were refused, given up, or had not ended when the simulation did.
        dropped_in_flight: Requests lost with the replica that served them.
        slo_attainment_ratio: Completed within both objectives, as a share of *all* requests: a failed or dropped
            request is a miss. NaN when nothing arrived.
        ttft_p50_s: From arrival at the gateway to the first token, over all requests that got one; also p95, p99.
        tpot_p50_s: Mean time per later output token, over completed requests; also p95.
        goodput_requests_per_s: Requests within both objectives over ``simulated_s``; goodput tokens are their outputs.
        gpu_hours: GPUs held, loading and draining included, from the start to the end of the trace.
        mean_replicas: Replicas that hold GPUs, averaged over that time.
        peak_replicas: Most replicas that held or waited for GPUs at a tick, those that drain included.
        scale_ups: Scaling acts carried out that asked for more; ``scale_downs`` for fewer.
        simulated_s: Length of the trace. What runs on after it serves requests but is not paid for, by any policy.
        wall_s: Real time that the run took, the load test before it excluded.
        decisions_digest: SHA-256 over every tick's acts and the totals: equal runs have equal digests.
        violations: Invariants that were broken, each with its instant.
        missed_requests: All requests that were not completed within both objectives.
        churn_per_hour: Replicas started and stopped, per hour of the trace.
        replicas_started: As ``simulations.turnover`` counts them; also ``replicas_stopped`` and ``unused_starts``,
            replicas that were paid for and went again before they could serve.
        loading_gpu_hours: Part of ``gpu_hours`` held by replicas on their way to READY.
        idle_gpu_hours: Part of it held by READY replicas with nothing in flight; ``unproductive_usd`` is for both.
        missed_spells: Times that the objective was missed for a while, as ``simulations.recovery`` tells them.
        recovered: Whether all of them were over before the trace was.
        time_to_recover_longest_s: Longest of them, and their mean; NaN where nothing was missed.
        fault_to_recover_longest_s: From a fault until the objective was met again, the longest; NaN without faults.
    """

    policy: str
    requests: int
    completed: int
    failed: int
    dropped_in_flight: int
    slo_attainment_ratio: float
    ttft_p50_s: float
    ttft_p95_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p95_s: float
    goodput_requests_per_s: float
    goodput_tokens_per_s: float
    gpu_hours: float
    cost_usd: float
    mean_replicas: float
    peak_replicas: int
    scale_ups: int
    scale_downs: int
    simulated_s: float
    wall_s: float
    decisions_digest: str
    violations: tuple[str, ...]
    missed_requests: int
    churn_per_hour: float
    replicas_started: int
    replicas_stopped: int
    unused_starts: int
    loading_gpu_hours: float
    idle_gpu_hours: float
    unproductive_usd: float
    missed_spells: int = 0
    recovered: bool = True
    time_to_recover_longest_s: float = math.nan
    time_to_recover_mean_s: float = math.nan
    fault_to_recover_longest_s: float = math.nan

    def as_json(self) -> dict[str, Any]:
        """Return the fields in their order, ready for ``json.dumps``: NaN becomes None."""
        return {name: None if _is_nan(value) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Bill:
    """What a fleet has used up to an instant."""

    gpu_s: float
    replica_s: float
    usd: float


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """The fleet at one tick, all pools together.

    Attributes:
        at_s: Seconds from the start of the trace.
        desired: Replicas asked for by the end of the tick.
        ready: READY replicas; ``ready_in`` counts them per pool, by key text.
        starting: On their way to READY.
        existing: All that there are, draining and failed ones included.
        source: Who forecast; empty when nobody was asked.
        queued_requests: Waiting in the engines that told of it; NaN when none did.
        held_requests: Held at the gateway because no replica could take them; NaN when it did not tell.
        kv_cache_ratio: Mean use of the KV cache over READY replicas that told of it; NaN when none did.
    """

    at_s: float
    desired: int
    ready: int
    starting: int
    existing: int
    source: str
    ready_in: tuple[tuple[str, int], ...]
    queued_requests: float = math.nan
    held_requests: float = math.nan
    kv_cache_ratio: float = math.nan


class Tally:
    """Collects, tick by tick, what the scorecard needs of the decisions.

    The timeline has a point per ``step_s`` and one where a decision changes something: some rivals tick every 2 s.
    """

    def __init__(self, step_s: float = 0.0) -> None:
        self.timeline: list[TimelinePoint] = []
        self.peak_replicas = 0
        self._step_s = step_s
        self.scale_ups = 0
        self.scale_downs = 0
        self.turnover = TurnoverWatch()
        self._digest = sha256()
        self._ready_in: dict[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]] = {}

    def add(self, record: TickRecord, at_s: float) -> None:
        """Count what was decided and carried out in one tick."""
        decision = record.decision
        if record.fleet is None or decision is None:
            self._digest.update(canonical_json({"at": record.at, "error": record.error}).encode())
            return
        acts = (record.at, decision.scaling, decision.traffic, decision.remediations)
        self._digest.update(canonical_json(acts).encode())
        done = {result.subject for result in record.results if result.act == "scale" and result.outcome == "done"}
        carried_out = [plan for plan in decision.scaling if str(plan.pool) in done]
        self.scale_ups += sum(plan.desired > plan.current for plan in carried_out)
        self.scale_downs += sum(plan.desired < plan.current for plan in carried_out)
        self.turnover.look(record.fleet, at_s)
        pools = record.fleet.pools
        existing = sum(len(pool.roster) for pool in pools)
        self.peak_replicas = max(self.peak_replicas, existing)
        if self.timeline and not carried_out and at_s < self.timeline[-1].at_s + self._step_s:
            return
        ready_in = tuple((str(pool.key), pool.roster.ready_count) for pool in pools)
        planned = {plan.pool: plan.desired for plan in carried_out}
        self.timeline.append(
            TimelinePoint(
                at_s=at_s,
                desired=sum(planned.get(pool.key, pool.desired) for pool in pools),
                ready=sum(count for _, count in ready_in),
                starting=sum(len(pool.roster.starting) for pool in pools),
                existing=existing,
                source=", ".join(sorted(set(record.forecast_sources.values()))),
                ready_in=self._ready_in.setdefault(ready_in, ready_in),  # days of ticks share a few dozen of them
                queued_requests=_queued(pools),
                held_requests=_held(record.fleet),
                kv_cache_ratio=_kv_cache_mean(pools),
            )
        )

    def digest(self, totals: Sequence[float]) -> str:
        """Return the digest of all acts so far and of ``totals``."""
        whole = self._digest.copy()
        whole.update(canonical_json(list(totals)).encode())
        return whole.hexdigest()


def score(
    policy: str, results: Results, bill: Bill, tally: Tally, simulated_s: float, violations: Sequence[str]
) -> Scorecard:
    """Return the scorecard of a finished run.

    ``wall_s`` is left at 0 for whoever has a stopwatch, recovery for ``simulations.recovery``, which has the curves.
    """
    requests, completed, dropped = results.requests, results.completed, results.dropped
    good, good_tokens = results.within, results.good_tokens
    ttft_p50_s, ttft_p95_s, ttft_p99_s = results.ttft_s((0.5, 0.95, 0.99))
    tpot_p50_s, tpot_p95_s = results.tpot_s((0.5, 0.95))
    totals = (requests, completed, dropped, good, good_tokens, round(bill.gpu_s, 3))
    turnover = tally.turnover.until(simulated_s)
    return Scorecard(
        policy=policy,
        requests=requests,
        completed=completed,
        failed=requests - completed - dropped,
        dropped_in_flight=dropped,
        slo_attainment_ratio=good / requests if requests else math.nan,
        ttft_p50_s=ttft_p50_s,
        ttft_p95_s=ttft_p95_s,
        ttft_p99_s=ttft_p99_s,
        tpot_p50_s=tpot_p50_s,
        tpot_p95_s=tpot_p95_s,
        goodput_requests_per_s=good / simulated_s,
        goodput_tokens_per_s=good_tokens / simulated_s,
        gpu_hours=bill.gpu_s / 3600.0,
        cost_usd=bill.usd,
        mean_replicas=bill.replica_s / simulated_s,
        peak_replicas=tally.peak_replicas,
        scale_ups=tally.scale_ups,
        scale_downs=tally.scale_downs,
        simulated_s=simulated_s,
        wall_s=0.0,
        decisions_digest=tally.digest(totals),
        violations=tuple(violations),
        missed_requests=requests - good,
        churn_per_hour=(turnover.started + turnover.stopped) / (simulated_s / 3600.0),
        replicas_started=turnover.started,
        replicas_stopped=turnover.stopped,
        unused_starts=turnover.unused_starts,
        loading_gpu_hours=turnover.loading_gpu_hours,
        idle_gpu_hours=turnover.idle_gpu_hours,
        unproductive_usd=turnover.unproductive_usd,
    )


@dataclass(frozen=True, slots=True)
class Curves:
    """What happened over time, in steps of ``BIN_S`` from the start of the trace, by arrival.

    Attributes:
        requests_per_s: Offered load.
        ttft_p95_s: NaN in steps in which no request got a token.
        within_ratio: Share of the step's requests within the objective; NaN in steps without requests.
        ttft_s: TTFT at each of ``CURVE_LEVELS``, over the whole run.
    """

    requests_per_s: tuple[float, ...]
    ttft_p95_s: tuple[float, ...]
    within_ratio: tuple[float, ...]
    ttft_s: tuple[float, ...]


CURVE_LEVELS = (*(percent / 100 for percent in range(1, 100)), 0.992, 0.994, 0.996, 0.998, 0.999)


def curves(results: Results, simulated_s: float) -> Curves:
    """Return the curves of a run of that length."""
    went = results.over_time(simulated_s)
    length_s = np.minimum(BIN_S, simulated_s - BIN_S * np.arange(len(went.requests)))
    ratio = np.divide(went.within, went.requests, out=np.full(len(length_s), np.nan), where=went.requests > 0)
    return Curves(
        tuple((went.requests / length_s).tolist()),
        tuple(went.ttft_p95_s.tolist()),
        tuple(ratio.tolist()),
        results.ttft_s(CURVE_LEVELS),
    )


def _known(values: Floats) -> list[float]:
    known: list[float] = values[~np.isnan(values)].tolist()
    return known


def _queued(pools: Sequence[PoolState]) -> float:
    told = [queued for pool in pools for queued in _known(pool.told.of("queued_requests"))]
    return math.fsum(told) if told else math.nan


def _kv_cache_mean(pools: Sequence[PoolState]) -> float:
    told = [ratio for pool in pools for ratio in _known(pool.told.of("kv_cache_ratio")[pool.roster.ready])]
    return math.fsum(told) / len(told) if told else math.nan


def _held(fleet: FleetState) -> float:
    told = [held for held in fleet.gateway_queued.values() if not math.isnan(held)]
    return math.fsum(told) if told else math.nan


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)
