"""How far has each replica come: what the gateway and its own counters say, look by look?"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from policies.answer_counts import counted
from policies.failing_settings import FailingSettings
from policies.fleet import FleetState
from policies.memory import ReplicaMemory
from policies.roster import ROW as FIGURE
from policies.roster import Bools, Floats, Integers, Told, joined
from policies.watched import (
    ANSWER_ROW,
    COUNTS,
    GROWTHS,
    LOSSES,
    RATES,
    ROW,
    ROWS,
    Instants,
    WatchedReplicas,
    answers_of,
)

PROBE_TOKENS_PER_S = 10.0
"""Prompt tokens that health probes, which go round the gateway, may offer an engine: a short one every second."""

GAUGE_S = 5.0
"""How much longer a replica must stand still whose answers nobody counts: a gauge falls where more end than come."""

BETWEEN_SCRAPES_S = 15.0
"""How long a scrape is taken to say what still is while the gateway sees no answer: the usual scrape interval."""

WOULD_HAVE_ENDED = 7.0
"""How many answers must be due in a silence of the gateway for it to be none by chance: one in a thousand of that."""

_COUNTERS = slice(FIGURE["steps_total"], FIGURE["output_tokens_total"] + 1)
_ANSWERED = slice(FIGURE["finished_requests_total"], FIGURE["failed_requests_total"] + 1)
_STEPS, _OUTPUT = ROW["steps_total"], ROW["output_tokens_total"]
_TOKENS = slice(ROW["prompt_tokens_total"], ROW["output_tokens_total"] + 1)
_IN_FLIGHT, _ALL_ANSWERED = ROW["in_flight"], ROW["answered_total"]


def remembered(
    fleet: FleetState, memory: Mapping[str, ReplicaMemory], settings: FailingSettings
) -> tuple[WatchedReplicas, Told]:
    """Return what is known of every replica now, and what was said of it at this look, both in the fleet's order.

    Nothing is known of a life of it that was not scraped.
    """
    told = joined([pool.told for pool in fleet.pools])
    before = WatchedReplicas.of(memory).aligned(*_named(fleet))
    counts = _known(np.concatenate((told.metrics[_COUNTERS], told.in_flight[None], told.answered[None])))
    had = before.known
    anew = told.scraped & (~had | _fell(counts, before.columns[COUNTS]))
    stays, known = had & ~anew, had | anew
    losses = _known(np.array((told.of("preemptions_total"), told.of("aborted_requests_total"), told.unreached)))
    _, counted_at = fleet.gateway_heard_at
    columns = _gone_on(before, counts, told, fleet.at, counted_at)
    _lose(columns, before, losses, fleet.at)
    _pace(columns, told)
    if np.count_nonzero(anew):
        columns[:, anew] = _begun(counts, told)[:, anew]
        columns[LOSSES, anew] = losses[:, anew]
        _pace(columns, told)
    at = np.array((np.full(len(known), fleet.at), told.of("observed_at")))
    totals = _known(np.array(((told.answered, told.failed), told.metrics[_ANSWERED])))
    answers = before.answers if stays.all() else np.where(stays, before.answers, np.nan)
    answers_of(columns)[...], new = counted(answers, at, totals, settings, _stages(fleet))
    if not known.all():
        columns[:, ~known] = np.nan
    instants = (
        _kept(before.slow_at, before.names, stays),
        _kept(before.worse_by_gateway, before.names, stays & ~new[0]),
        _kept(before.worse_by_itself, before.names, stays & ~new[1]),
    )
    return WatchedReplicas(before.names, before.lives, columns, *instants), told


def _stages(fleet: FleetState) -> Integers:
    """Return ``int64[N]``, the number of the stage of each: who shares a stage gets the same requests."""
    place = {stage: number for number, stage in enumerate(fleet.stages)}
    return np.repeat([place[pool.key.stage] for pool in fleet.pools], [len(pool.roster) for pool in fleet.pools])


def taking_prompts(fleet: FleetState, memory: WatchedReplicas, max_age_s: float) -> frozenset[str]:
    """Return the models of which an engine took in more than probes between its last two scrapes: somebody calls it.

    Scrapes older than ``max_age_s`` say nothing. ``memory`` has the fleet's replicas first, in its order.
    """
    fresh = fleet.at - memory.of_row("observed_at") <= max_age_s
    busy = fresh & (memory.of_row("prompt_tokens_per_s") > PROBE_TOKENS_PER_S)
    models = set()
    first = 0
    for pool in fleet.pools:
        last = first + len(pool.roster)
        if busy[first:last].any():
            models.add(pool.key.model)
        first = last
    return frozenset(models)


def stood_s(memory: WatchedReplicas, at: float, heard_at: float, half_life_s: float) -> Floats:
    """Return ``float64[N]``, for how many seconds nothing spoke for each: no step, no answer, no fall of the gauge.

    Where answers are counted, the time since the engine's last scrape counts too, as far as the next one may take to
    come. The gauge is held against the older scrape, so that it has a tick more to fall.

    Args:
        memory: Of N replicas.
        at: Instant of the look.
        heard_at: When the oldest sample was taken of what gateways count.
        half_life_s: The longer one with which answers are counted.
    """
    stepped_or_fell_at = np.fmax(memory.of_row("stepped_at"), memory.of_row("fell_at"))
    by_scrape = memory.of_row("observed_at") - stepped_or_fell_at
    by_tick = np.minimum(at - stepped_or_fell_at, by_scrape + BETWEEN_SCRAPES_S)
    counted = ~np.isnan(memory.of_row("answered_total"))
    by_engine = np.where(counted, by_tick, by_scrape - GAUGE_S)
    silent_s: Floats = np.fmin(by_engine, _unanswered_s(memory, at, heard_at, half_life_s))
    return silent_s


def _unanswered_s(memory: WatchedReplicas, at: float, heard_at: float, half_life_s: float) -> Floats:
    """Return ``float64[N]``, for how long the gateway is taken to have seen no answer of each; NaN without any.

    That is as long as it was heard saying so, and as long again as its next sample may take to come where too many
    answers were due to all be late by chance: what answers once in half a minute is well after half a minute. The
    counts have halved meanwhile, so that fewer are taken to be due than were.
    """
    answered_at = memory.of_row("answered_at")
    heard_s = heard_at - answered_at
    due = heard_s * memory.answers[0, ANSWER_ROW["answered_long"]] * (math.log(2.0) / half_life_s)
    longer_s = np.minimum(at - answered_at, heard_s + BETWEEN_SCRAPES_S)
    unanswered_s: Floats = np.where(due >= WOULD_HAVE_ENDED, longer_s, heard_s)
    return unanswered_s


def exporter_stuck_s(memory: WatchedReplicas) -> Floats:
    """Return ``float64[N]``, for how long scrapes came, answers too, and counters did not move; NaN without answers.

    The last answers of an engine that hangs may be noticed after its last step, by a scrape and a tick at most.
    """
    answered_too_at: Floats = np.minimum(memory.of_row("answered_at"), memory.of_row("observed_at"))
    return answered_too_at - memory.of_row("stepped_at")


def _named(fleet: FleetState) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names and the lives of all replicas."""
    if len(fleet.pools) == 1:
        (pool,) = fleet.pools
        return pool.roster.names(str(pool.key)), pool.roster.lives
    names = [name for pool in fleet.pools for name in pool.roster.names(str(pool.key))]
    return tuple(names), tuple([life for pool in fleet.pools for life in pool.roster.lives])


def _fell(counts: Floats, before: Floats) -> Bools:
    """Return whether a counter fell: the engine was restarted without the platform's knowledge."""
    fell: Bools = (counts[_STEPS] < before[_STEPS]) | (counts[_OUTPUT] < before[_OUTPUT])
    return fell


def _begun(counts: Floats, told: Told) -> Floats:
    """Return ``float64[ROWS, N]``, what is known of a life that is seen for the first time."""
    columns = np.full((ROWS, counts.shape[1]), np.nan)
    columns[COUNTS] = counts
    columns[ROW["observed_at"]] = columns[ROW["stepped_at"]] = columns[ROW["moved_at"]] = told.of("observed_at")
    columns[ROW["busy"]] = _busy(told)
    return columns


def _gone_on(before: WatchedReplicas, counts: Floats, told: Told, at: float, counted_at: float) -> Floats:
    """Return ``float64[ROWS, N]``, what is known after the gateway's word and the engine's; answers are as before.

    Of the engine's, a step or a token is progress, and so is idleness; standing still takes work inside at both ends of
    the time. A counter that is not given is no evidence: what was last known of it stands, and ``observed_at`` with it.

    Args:
        before: What was known.
        counts: ``float64[5, N]``, as the rows ``COUNTS`` of what is remembered.
        told: What was said.
        at: Instant of the look.
        counted_at: When the newest sample was taken of what gateways count.
    """
    columns = before.columns.copy()
    had = before.columns[COUNTS]
    observed_at, busy = told.of("observed_at"), _busy(told)
    elapsed_s = observed_at - before.of_row("observed_at")
    given = ~np.isnan(counts)
    looked = (elapsed_s > 0) & (given[_STEPS] | given[_OUTPUT])
    moved = given & ~(counts <= had)  # or known for the first time
    stood = busy & (before.of_row("busy") > 0) & ~moved[_STEPS] & ~moved[_OUTPUT]
    growth = (counts - had)[_TOKENS]
    rates = np.full(growth.shape, np.nan)
    np.divide(growth, elapsed_s, out=rates, where=looked & ~(growth < 0))
    np.copyto(columns[RATES], rates, where=looked)
    np.copyto(columns[ROW["observed_at"]], observed_at, where=looked)
    np.copyto(columns[ROW["stepped_at"]], observed_at, where=looked & ~stood)
    np.copyto(columns[ROW["busy"]], busy, where=looked)
    np.copyto(columns[ROW["moved_at"]], observed_at, where=looked & moved[: _OUTPUT + 1].any(axis=0))
    np.copyto(columns[ROW["answered_at"]], counted_at, where=counts[_ALL_ANSWERED] > had[_ALL_ANSWERED])
    fell = (counts[_IN_FLIGHT] < had[_IN_FLIGHT]) & ~given[_ALL_ANSWERED]
    np.copyto(columns[ROW["fell_at"]], at, where=fell)
    given[:_IN_FLIGHT] &= looked
    np.copyto(columns[COUNTS], counts, where=given)
    return columns


def _lose(columns: Floats, before: WatchedReplicas, losses: Floats, at: float) -> None:
    """Note what was lost since the last look, in ``columns``; a counter that is not given stays as it was.

    Args:
        columns: ``float64[ROWS, N]``.
        before: What was known.
        losses: ``float64[3, N]``, totals as the rows ``LOSSES``.
        at: Instant of the look.
    """
    growth = losses - before.columns[LOSSES]
    columns[GROWTHS] = np.where(growth >= 0, growth, np.nan)
    np.copyto(columns[LOSSES], losses, where=~np.isnan(losses))
    np.copyto(columns[ROW["unreached_at"]], at, where=columns[ROW["unreached"]] > 0)


def _pace(columns: Floats, told: Told) -> None:
    """Note the TPOT that is told; where none is, the last one stays."""
    tpot_s = told.of("tpot_mean_s")
    counted = ~np.isnan(told.of("steps_total")) | ~np.isnan(told.of("output_tokens_total"))
    given = told.scraped & counted & np.isfinite(tpot_s)
    np.copyto(columns[ROW["tpot_s"]], tpot_s, where=given)
    np.copyto(columns[ROW["tpot_at"]], told.of("observed_at"), where=given)


def _busy(told: Told) -> Bools:
    """Return whether each is known to have work, by the gateway or by itself."""
    busy: Bools = (told.in_flight > 0) | (told.of("running_requests") > 0) | (told.of("queued_requests") > 0)
    return busy


def _known(values: Floats) -> Floats:
    return np.where(np.isinf(values), np.nan, values)


def _kept(instants: Instants, names: tuple[str, ...], where: Bools) -> Instants:
    """Return the instants of those for whom they still count."""
    if not instants:
        return {}
    return {name: instants[name] for name, kept in zip(names, where.tolist(), strict=True) if kept and name in instants}
