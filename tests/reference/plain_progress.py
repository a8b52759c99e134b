"""What is remembered of one replica, in plain words: what ``policies.progress`` does to all of them at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

from policies.failing_settings import FailingSettings
from policies.fleet import FleetState, ReplicaMetrics, ReplicaState, Stage
from policies.memory import AnswerMemory, ReplicaMemory


def remember_all(
    look: FleetState, before: Mapping[str, ReplicaMemory], settings: FailingSettings
) -> dict[str, ReplicaMemory]:
    """Return what is known of every replica now: of each by itself, and then what its peers answered meanwhile."""
    replicas = {pool.key.replica(r.id): (pool.key.stage, r) for pool in look.pools for r in pool.replicas}
    counted_at = look.gateway_heard_at[1]
    now = {name: remember(look.at, counted_at, r, before.get(name), settings) for name, (_, r) in replicas.items()}
    after = {name: known for name, known in now.items() if known is not None}
    same = {name: known for name, (_, r) in replicas.items() if (known := before.get(name)) and _goes_on(r, known)}
    stage_of = {name: stage for name, (stage, _) in replicas.items()}
    for witness in _WITNESSES:
        after = _with_runs(after, same, stage_of, witness, settings)
    return after


def _goes_on(replica: ReplicaState, before: ReplicaMemory) -> bool:
    return before.life == replica.life and not (replica.metrics is not None and _began_anew(replica.metrics, before))


_Which = Literal["by_gateway", "by_itself"]
_WITNESSES: tuple[_Which, ...] = ("by_gateway", "by_itself")


def _of(known: ReplicaMemory | None, witness: _Which) -> AnswerMemory | None:
    if known is None:
        return None
    return known.by_gateway if witness == "by_gateway" else known.by_itself


def _with_runs(
    after: Mapping[str, ReplicaMemory],
    before: Mapping[str, ReplicaMemory],
    stage_of: Mapping[str, Stage],
    witness: _Which,
    settings: FailingSettings,
) -> dict[str, ReplicaMemory]:
    """Return the memory with runs of errors counted on, one replica at a time."""
    growth = {
        name: _growth(_of(before.get(name), witness), _of(known, witness), settings) for name, known in after.items()
    }
    found = dict(after)
    for name, known in after.items():
        counts, last = _of(known, witness), _of(before.get(name), witness)
        if counts is None or last is None or _anew(last, counts, settings):
            continue
        good, bad = growth[name]
        even = settings.failed_ratio / 2.0
        level = round(min(max(0.0, last.run_level + bad - even * (good + bad)), settings.run_ends_after * even), 3)
        if level == 0.0:
            run = (0.0, 0.0, 0.0, 0.0)
        else:
            beside = [growth[other] for other in after if stage_of[other] == stage_of[name]]
            more = (good, bad, max(0.0, sum(p[0] for p in beside) - good), max(0.0, sum(p[1] for p in beside) - bad))
            had = (last.run_answered, last.run_failed, last.peers_answered, last.peers_failed)
            run = tuple(round((a if last.run_level > 0.0 else 0.0) + b, 3) for a, b in zip(had, more, strict=True))
        began_at = (last.run_at if last.run_level > 0.0 else counts.told_at) if level > 0.0 else None
        counts = replace(
            counts, run_level=level, run_answered=run[0], run_failed=run[1], peers_answered=run[2],
            peers_failed=run[3], run_at=began_at,
        )  # fmt: skip
        found[name] = replace(known, by_gateway=counts) if witness == "by_gateway" else replace(known, by_itself=counts)
    return found


def _anew(before: AnswerMemory, now: AnswerMemory, settings: FailingSettings) -> bool:
    """Return whether counting began anew at this look."""
    fell = now.answered_total < before.answered_total or now.failed_total < before.failed_total
    return now.told_at != before.told_at and (fell or now.told_at - before.told_at > settings.look_back_s)


def _growth(before: AnswerMemory | None, now: AnswerMemory | None, settings: FailingSettings) -> tuple[float, float]:
    """Return good answers and errors since the last look; none where that is not known."""
    if before is None or now is None or now.told_at <= before.told_at or _anew(before, now, settings):
        return 0.0, 0.0
    return now.answered_total - before.answered_total, now.failed_total - before.failed_total


def remember(
    at: float, counted_at: float, replica: ReplicaState, before: ReplicaMemory | None, settings: FailingSettings
) -> ReplicaMemory | None:
    """Return what is known of the replica now; None as long as this life of it was not scraped.

    What gateways count is as of ``counted_at``.
    """
    if before is not None and before.life != replica.life:
        before = None
    seen = replica.metrics
    if seen is not None and (before is None or _began_anew(seen, before)):
        return _new_life(at, replica, seen, settings)
    if before is None:
        return None
    return _after_look(before, at, counted_at, replica, settings)


def _began_anew(seen: ReplicaMetrics, before: ReplicaMemory) -> bool:
    """Return whether a counter fell: the engine was restarted without the platform's knowledge."""
    return _less(_known(seen.steps_total), before.steps_total) or _less(
        _known(seen.output_tokens_total), before.output_tokens_total
    )


def _new_life(at: float, replica: ReplicaState, seen: ReplicaMetrics, settings: FailingSettings) -> ReplicaMemory:
    by_gateway, by_itself = count_answers(None, at, replica, settings)
    return ReplicaMemory(
        life=replica.life,
        steps_total=_known(seen.steps_total),
        prompt_tokens_total=_known(seen.prompt_tokens_total),
        output_tokens_total=_known(seen.output_tokens_total),
        in_flight=_known(replica.in_flight_requests),
        observed_at=seen.observed_at,
        stepped_at=seen.observed_at,
        busy=_busy(replica, seen),
        answered_total=_known(replica.answered_requests_total),
        by_gateway=by_gateway,
        by_itself=by_itself,
        moved_at=seen.observed_at,
    )


def _after_look(
    before: ReplicaMemory, at: float, counted_at: float, replica: ReplicaState, settings: FailingSettings
) -> ReplicaMemory:
    """Return memory after the gateway's word and the engine's.

    Of the engine's, a step or a token is progress, and so is idleness; standing still takes work inside at both ends of
    the time. A counter that is not given is no evidence: what was last known of it stands, and ``observed_at`` with it.
    """
    in_flight, answered = _known(replica.in_flight_requests), _known(replica.answered_requests_total)
    steps, prompt, tokens = before.steps_total, before.prompt_tokens_total, before.output_tokens_total
    observed_at, stepped_at, busy = before.observed_at, before.stepped_at, before.busy
    prompt_per_s, tokens_per_s = before.prompt_tokens_per_s, before.output_tokens_per_s
    moved_at = before.moved_at
    seen = replica.metrics
    if seen is not None and (elapsed_s := seen.observed_at - before.observed_at) > 0:
        new_steps, new_tokens = _known(seen.steps_total), _known(seen.output_tokens_total)
        if not (new_steps is None and new_tokens is None):
            new_prompt, busy = _known(seen.prompt_tokens_total), _busy(replica, seen)
            moved = _moved(steps, new_steps) or _moved(tokens, new_tokens)
            stood = busy and before.busy and not moved
            moved_at = seen.observed_at if moved or _moved(prompt, new_prompt) else moved_at
            observed_at, stepped_at = seen.observed_at, before.stepped_at if stood else seen.observed_at
            prompt_per_s, tokens_per_s = _rate(prompt, new_prompt, elapsed_s), _rate(tokens, new_tokens, elapsed_s)
            steps = steps if new_steps is None else new_steps
            prompt = prompt if new_prompt is None else new_prompt
            tokens = tokens if new_tokens is None else new_tokens
    by_gateway, by_itself = count_answers(before, at, replica, settings)
    return ReplicaMemory(
        life=before.life,
        steps_total=steps,
        prompt_tokens_total=prompt,
        output_tokens_total=tokens,
        in_flight=before.in_flight if in_flight is None else in_flight,
        observed_at=observed_at,
        stepped_at=stepped_at,
        busy=busy,
        prompt_tokens_per_s=prompt_per_s,
        output_tokens_per_s=tokens_per_s,
        slow_at=before.slow_at,
        answered_total=before.answered_total if answered is None else answered,
        answered_at=counted_at if _less(before.answered_total, answered) else before.answered_at,
        fell_at=at if answered is None and _less(in_flight, before.in_flight) else before.fell_at,
        by_gateway=by_gateway,
        by_itself=by_itself,
        moved_at=moved_at,
        explained_at=before.explained_at,
    )


def _busy(replica: ReplicaState, seen: ReplicaMetrics) -> bool:
    """Return whether it is known to have work, by the gateway or by itself."""
    return replica.in_flight_requests > 0 or seen.running_requests > 0 or seen.queued_requests > 0


def _moved(before: float | None, now: float | None) -> bool:
    """Return whether a counter grew, or is known for the first time."""
    return now is not None and (before is None or now > before)


def _rate(before: float | None, now: float | None, elapsed_s: float) -> float | None:
    return None if before is None or now is None or now < before else (now - before) / elapsed_s


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _less(one: float | None, other: float | None) -> bool:
    """Return whether both are known and the first is smaller."""
    return one is not None and other is not None and one < other


def count_answers(
    before: ReplicaMemory | None, at: float, replica: ReplicaState, settings: FailingSettings
) -> tuple[AnswerMemory | None, AnswerMemory | None]:
    """Return the replica's answers counted on, by the gateway and by itself; the gateway's figures are as of ``at``."""
    by_gateway, by_itself = (None, None) if before is None else (before.by_gateway, before.by_itself)
    told = replica.answered_requests_total, replica.failed_answers_total
    by_gateway = _counted(by_gateway, at, *told, settings)
    if (seen := replica.metrics) is not None:
        told = seen.finished_requests_total, seen.failed_requests_total
        by_itself = _counted(by_itself, seen.observed_at, *told, settings)
    return by_gateway, by_itself


def _counted(
    before: AnswerMemory | None, at: float, answered: float, failed: float, settings: FailingSettings
) -> AnswerMemory | None:
    """Return the counts as of ``at``: as they were where a counter is not given, begun anew where one fell (F14)."""
    if not (math.isfinite(answered) and math.isfinite(failed)):
        return before
    if before is None or at - before.told_at > settings.look_back_s:
        return AnswerMemory(answered, failed, at)
    if at <= before.told_at:
        return before
    good, bad = answered - before.answered_total, failed - before.failed_total
    if good < 0 or bad < 0:
        return AnswerMemory(answered, failed, at)
    kept = 0.5 ** ((at - before.told_at) / settings.half_life_s)
    kept_long = 0.5 ** ((at - before.told_at) / settings.long_half_life_s)
    return AnswerMemory(
        answered,
        failed,
        told_at=at,
        ended_at=at if good + bad > 0 else before.ended_at,
        answered=round(before.answered * kept + good, 3),
        failed=round(before.failed * kept + bad, 3),
        worse_at=before.worse_at,
        run_level=before.run_level,
        run_answered=before.run_answered,
        run_failed=before.run_failed,
        peers_answered=before.peers_answered,
        peers_failed=before.peers_failed,
        run_at=before.run_at,
        answered_long=round(before.answered_long * kept_long + good, 3),
        failed_long=round(before.failed_long * kept_long + bad, 3),
    )
