"""What does somebody who watches a run want to see: the last stretch of it, as one value that each tick replaces."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from controller.ports import TickRecord
from forecasting.forecast import LoadForecast
from forecasting.series import REQUESTS
from policies.decisions import Decision
from policies.fleet import FleetState, Phase, PoolState, ReplicaState
from simulations.live_story import DecisionLine, Incident, decision_lines, incidents_after, load_to_come

LOW, MIDDLE, HIGH = 0.1, 0.5, 0.9
"""Levels of the forecast band and of the line in it."""

_KEPT_LINES = 32


@dataclass(frozen=True, slots=True)
class LoadPoint:
    """Offered load at an instant; NaN where it was not observed."""

    at: float
    requests_per_s: float


@dataclass(frozen=True, slots=True)
class BandPoint:
    """What was forecast for the step around ``at``, in requests/s."""

    at: float
    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True)
class PoolRow:
    """Replicas of one pool by what they are worth now; ``sick`` ones exist but do not serve, or not as they should."""

    name: str
    ready: int
    starting: int
    draining: int
    sick: int
    desired: int
    weight: float


@dataclass(frozen=True, slots=True)
class Staged:
    """A fault that the audience knows of and the controller does not; ``name`` is one word for it."""

    at: float
    words: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Tally:
    """The count so far, of requests that have ended; NaN before there is anything to count."""

    requests: int = 0
    dropped: int = 0
    attainment_ratio: float = math.nan
    gpu_hours: float = math.nan


@dataclass(frozen=True, slots=True)
class ViewState:
    """All that the screen shows. Instants are seconds since the Unix epoch, as in the records.

    Attributes:
        title: What runs.
        policy: Name of the policy.
        forecaster: Which model forecasts, in words for the header.
        begins_at, ends_at: The replayed stretch.
        compression: Seconds of the load's own day per second of the replay.
        lead_time_s: How long before its step a forecast must be made to be of use; the band in the past is the one
            that was made so long before.
        look_back_s: How much of the past is kept.
        speed: Replayed seconds per second of the wall clock; 0 while not known.
        at: Instant of the newest tick.
        load: Offered load, oldest first.
        foreseen: Band of the past, oldest first.
        ahead: Band of the newest forecast.
        now: The newest reason for the size of the fleet.
        unseen: Why the newest tick observed nothing; empty when it did.
    """

    title: str
    policy: str
    forecaster: str
    begins_at: float
    ends_at: float
    compression: float = 1.0
    lead_time_s: float = 120.0
    look_back_s: float = 2400.0
    staged: tuple[Staged, ...] = ()
    speed: float = 0.0
    at: float = math.nan
    load: tuple[LoadPoint, ...] = ()
    foreseen: tuple[BandPoint, ...] = ()
    ahead: tuple[BandPoint, ...] = ()
    pools: tuple[PoolRow, ...] = ()
    incidents: tuple[Incident, ...] = ()
    decisions: tuple[DecisionLine, ...] = ()
    tally: Tally = Tally()
    now: str = ""
    unseen: str = ""


def advance(view: ViewState, record: TickRecord, forecasts: Mapping[str, LoadForecast], tally: Tally) -> ViewState:
    """Return ``view`` one tick later. With several models their loads and bands are added up.

    Args:
        view: The view so far.
        record: What the tick saw, decided and did.
        forecasts: What it decided from, per model.
        tally: The count so far.
    """
    fleet, decision = record.fleet, record.decision
    if fleet is None or decision is None:
        gap = LoadPoint(record.at, math.nan)
        return replace(view, at=record.at, load=(*view.load, gap), ahead=(), tally=tally, unseen=record.error)
    oldest_at = record.at - view.look_back_s
    ahead = _band(forecasts)
    foreseen = (*view.foreseen, *(point for point in ahead if _newly_due(point, ahead, view, record.at)))
    return replace(
        view,
        at=record.at,
        load=(*(p for p in view.load if p.at >= oldest_at), LoadPoint(record.at, _offered(fleet))),
        foreseen=tuple(p for p in foreseen if p.at >= oldest_at),
        ahead=ahead,
        pools=tuple(_pool_row(pool, decision) for pool in fleet.pools),
        incidents=incidents_after(view.incidents, fleet, decision, record.results),
        decisions=(*view.decisions, *decision_lines(fleet, decision, record))[-_KEPT_LINES:],
        tally=tally,
        now=load_to_come(decision, record),
        unseen="",
    )


def _offered(fleet: FleetState) -> float:
    return sum(demand.requests_per_s for demand in fleet.demand.values()) if fleet.demand else math.nan


def _band(forecasts: Mapping[str, LoadForecast]) -> tuple[BandPoint, ...]:
    """Return the band over all models, a point in the middle of each step that all forecasts have."""
    if not forecasts:
        return ()
    first = next(iter(forecasts.values()))
    steps = min(forecast.values.shape[1] for forecast in forecasts.values())
    low, middle, high = (
        np.sum([forecast.at_level(level)[:steps, REQUESTS] for forecast in forecasts.values()], axis=0)
        for level in (LOW, MIDDLE, HIGH)
    )
    return tuple(
        BandPoint(first.start_at + (h + 0.5) * first.step_s, float(low[h]), float(middle[h]), float(high[h]))
        for h in range(steps)
    )


def _newly_due(point: BandPoint, ahead: tuple[BandPoint, ...], view: ViewState, at: float) -> bool:
    """Whether ``point`` is the last of ``ahead`` within the lead time, and later than what is known already."""
    within = [p for p in ahead if p.at - at <= view.lead_time_s]
    return bool(within) and point is within[-1] and (not view.foreseen or point.at > view.foreseen[-1].at)


def _pool_row(pool: PoolState, decision: Decision) -> PoolRow:
    suspected = {d.subject for d in decision.diagnoses if d.cause != "unknown"}
    sick = [r for r in pool.replicas if _sick(r, suspected)]
    well = [r for r in pool.replicas if not _sick(r, suspected)]
    plan = next((p for p in decision.scaling if p.pool == pool.key), None)
    return PoolRow(
        name=pool.key.pool,
        ready=sum(r.serving for r in well),
        starting=sum(r.starting for r in well),
        draining=sum(r.phase is Phase.DRAINING for r in well),
        sick=len(sick),
        desired=plan.desired if plan else pool.desired,
        weight=pool.weight,
    )


def _sick(replica: ReplicaState, suspected: set[str]) -> bool:
    if replica.phase is Phase.DRAINING:
        return False
    return replica.phase is Phase.FAILED or replica.cordoned or replica.id in suspected
