"""How far has a replica come: what the gateway and its own counters say, look by look?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Set

from policies.failing import FailingSettings, count_answers
from policies.fleet import FleetState, ReplicaMetrics, ReplicaState
from policies.memory import ReplicaMemory

PROBE_TOKENS_PER_S = 10.0
"""Prompt tokens that health probes, which go round the gateway, may offer an engine: a short one every second."""


def remember(
    at: float, replica: ReplicaState, before: ReplicaMemory | None, settings: FailingSettings
) -> ReplicaMemory | None:
    """Return what is known of the replica now; None as long as this life of it was not scraped."""
    if before is not None and before.life != replica.life:
        before = None
    seen = replica.metrics
    if seen is not None and (before is None or _began_anew(seen, before)):
        return _new_life(at, replica, seen, settings)
    if before is None:
        return None
    return _after_look(before, at, replica, settings)


def taking_prompts(fleet: FleetState, memory: Mapping[str, ReplicaMemory], fresh: Set[str]) -> frozenset[str]:
    """Return the models of which an engine took in more than probes between its last two scrapes: somebody calls it."""
    busy = {name for name in fresh if (memory[name].prompt_tokens_per_s or 0.0) > PROBE_TOKENS_PER_S}
    return frozenset(p.key.model for p in fleet.pools if any(p.key.replica(r.id) in busy for r in p.replicas))


def stood_s(known: ReplicaMemory, at: float) -> float:
    """Return for how many seconds nothing spoke for it: no step, no answer, no fall of the requests in flight.

    Answers are as new as ``at``. The gauge is held against the older scrape, so that it has a tick more to fall.
    """
    stepped_or_fell_at = known.stepped_at if known.fell_at is None else max(known.stepped_at, known.fell_at)
    silent_s = known.observed_at - stepped_or_fell_at
    return silent_s if known.answered_at is None else min(silent_s, at - known.answered_at)


def exporter_stuck_s(known: ReplicaMemory) -> float:
    """Return for how long scrapes came, answers too, and counters did not move.

    The last answers of an engine that hangs may be noticed after its last step, by a scrape and a tick at most.
    """
    return -math.inf if known.answered_at is None else min(known.answered_at, known.observed_at) - known.stepped_at


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
    )


def _after_look(before: ReplicaMemory, at: float, replica: ReplicaState, settings: FailingSettings) -> ReplicaMemory:
    """Return memory after the gateway's word and the engine's.

    The gateway's figures carry no instant of their own, so they count as of ``at``. Of the engine's, a step or a token
    is progress, and so is idleness; standing still takes work inside at both ends of the time. A counter that is not
    given is no evidence: what was last known of it stands, and ``observed_at`` with it.
    """
    in_flight, answered = _known(replica.in_flight_requests), _known(replica.answered_requests_total)
    steps, prompt, tokens = before.steps_total, before.prompt_tokens_total, before.output_tokens_total
    observed_at, stepped_at, busy = before.observed_at, before.stepped_at, before.busy
    prompt_per_s, tokens_per_s = before.prompt_tokens_per_s, before.output_tokens_per_s
    seen = replica.metrics
    if seen is not None and (elapsed_s := seen.observed_at - before.observed_at) > 0:
        new_steps, new_tokens = _known(seen.steps_total), _known(seen.output_tokens_total)
        if not (new_steps is None and new_tokens is None):
            new_prompt, busy = _known(seen.prompt_tokens_total), _busy(replica, seen)
            moved = _moved(steps, new_steps) or _moved(tokens, new_tokens)
            stood = busy and before.busy and not moved
            observed_at, stepped_at = seen.observed_at, before.stepped_at if stood else seen.observed_at
            prompt_per_s, tokens_per_s = _rate(prompt, new_prompt, elapsed_s), _rate(tokens, new_tokens, elapsed_s)
            steps = steps if new_steps is None else new_steps
            prompt = prompt if new_prompt is None else new_prompt
            tokens = tokens if new_tokens is None else new_tokens
    by_gateway, by_itself = count_answers(before, at, replica, settings)
    # Built whole: to replace field by field, once for each word, takes three times as long.
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
        answered_at=at if _less(before.answered_total, answered) else before.answered_at,
        fell_at=at if answered is None and _less(in_flight, before.in_flight) else before.fell_at,
        by_gateway=by_gateway,
        by_itself=by_itself,
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
