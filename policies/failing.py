"""Which replicas fail requests that their peers answer?

Errors have two witnesses: the gateway, which sees what a replica answers, and the engine's own count. Neither can tell
whose fault an error is. The cohort can: all replicas of a model get the same requests and depend on the same things, so
that what clients send, or an outage behind them all, shows at all of them alike. Only a replica that fails far more
than most of its peers is suspected, and only once that has been seen ``looks`` times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import Anomaly
from policies.fleet import FleetState, Phase, PoolKey, ReplicaState
from policies.memory import AnswerMemory, ReplicaMemory


class FailingSettings(BaseModel):
    """When errors count against a replica."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    half_life_s: float = Field(
        30.0,
        gt=0,
        description="Time in seconds after which an answer counts half: long enough for some ten of them at the load "
        "of one replica, short enough to notice a burst within two ticks.",
    )
    failed_ratio: float = Field(
        0.2, gt=0, le=1, description="Share of its answers that must be errors; fewer cost less than a restart does."
    )
    times_peers: float = Field(
        3.0, gt=1, description="It must also be this many times the share of a peer for that peer to speak against it."
    )
    z: float = Field(
        5.0,
        gt=0,
        description="Standard errors by which its share must exceed that of its peers (two-proportion z-test). Where 2 "
        "to 20 % of all requests fail by chance, ten replicas had a single such look about once in two months of "
        "simulated time, and never several in a row.",
    )
    least_failed: float = Field(5.0, ge=1, description="Errors that must count at the moment; fewer are single errors.")
    looks: int = Field(3, ge=1, description="Looks within the look-back at which it must be so (k of n).")
    look_back_s: float = Field(
        120.0,
        gt=0,
        description="Look-back of the k-of-n rule, in seconds; counts that were not told for this long begin anew.",
    )
    max_age_s: float = Field(60.0, gt=0, description="Counts older than this, in seconds, are no evidence at all.")


@dataclass(frozen=True, slots=True)
class _Witness:
    """Somebody who counts answers: the family of evidence, how that is said, and where it is remembered."""

    family: str
    said: str
    read: Callable[[ReplicaMemory], AnswerMemory | None]
    write: Callable[[ReplicaMemory, AnswerMemory], ReplicaMemory]


_WITNESSES = (
    _Witness("answers", "the gateway counts", lambda m: m.by_gateway, lambda m, a: replace(m, by_gateway=a)),
    _Witness("errors", "its engine counts", lambda m: m.by_itself, lambda m, a: replace(m, by_itself=a)),
)


def count_answers(known: ReplicaMemory, at: float, replica: ReplicaState, settings: FailingSettings) -> ReplicaMemory:
    """Return what is known of the replica with its answers counted on; the gateway's figures count as of ``at``."""
    told = replica.answered_requests_total, replica.failed_answers_total
    by_gateway, by_itself = _counted(known.by_gateway, at, *told, settings), known.by_itself
    if (seen := replica.metrics) is not None:
        told = seen.finished_requests_total, seen.failed_requests_total
        by_itself = _counted(by_itself, seen.observed_at, *told, settings)
    return replace(known, by_gateway=by_gateway, by_itself=by_itself)


def failing(
    fleet: FleetState, memory: Mapping[str, ReplicaMemory], settings: FailingSettings
) -> tuple[list[Anomaly], dict[str, ReplicaMemory]]:
    """Return evidence against replicas that fail more than their peers, and memory with this look added.

    A share of errors is evidence at once, that peers do not have it only after ``looks`` looks. Whoever answered
    nothing since the last look is neither judged nor heard.
    """
    found: list[Anomaly] = []
    remembered = dict(memory)
    for stage in fleet.stages:
        cohort = {
            p.key.replica(r.id): (p.key, r) for p in fleet.pools_in(stage) for r in p.replicas if r.phase is Phase.READY
        }
        for witness in _WITNESSES:
            told = {
                name: answers
                for name in cohort
                if name in memory and (answers := witness.read(memory[name])) and _recent(answers, fleet.at, settings)
            }
            for name, answers in told.items():
                key, replica = cohort[name]
                # nobody's share means anything before one answer counts in full
                peers = [peer for other, peer in told.items() if other != name and peer.ended >= 1.0]
                better, worse = _compared(answers, peers, settings)
                looked = _with_look(answers, fleet.at, settings, worse=worse)
                remembered[name] = witness.write(remembered[name], looked)
                if _suspicious(looked, settings):
                    found.append(_errors(key, replica.id, witness, looked, settings))
                    if worse and len(looked.worse_at) >= settings.looks:
                        found.append(_alone(key, replica.id, looked, f"{better} of {len(peers)}", settings))
    return found, remembered


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
    return AnswerMemory(
        answered,
        failed,
        told_at=at,
        ended_at=at if good + bad > 0 else before.ended_at,
        answered=round(before.answered * kept + good, 3),
        failed=round(before.failed * kept + bad, 3),
        worse_at=before.worse_at,
    )


def _recent(answers: AnswerMemory, at: float, settings: FailingSettings) -> bool:
    return at - answers.told_at <= settings.max_age_s


def _suspicious(answers: AnswerMemory, settings: FailingSettings) -> bool:
    return answers.failed >= settings.least_failed and answers.failed_ratio >= settings.failed_ratio


def _compared(own: AnswerMemory, peers: Sequence[AnswerMemory], settings: FailingSettings) -> tuple[int, bool]:
    """Return how many peers fail far fewer, and whether it fails more than they do, beyond what chance explains.

    Most peers must do better one by one, so that a second bad replica hides none. Chance is ruled out against all of
    them together, by a two-proportion z-test with the pooled share: 9 errors in 25 answers, where peers had 11 in 225,
    are 5.4 standard errors.
    """
    if not peers or not _suspicious(own, settings):
        return 0, False
    better = sum(own.failed_ratio >= settings.times_peers * peer.failed_ratio for peer in peers)
    failed, ended = sum(peer.failed for peer in peers), sum(peer.ended for peer in peers)
    pooled = (own.failed + failed) / (own.ended + ended)
    deviation = math.sqrt(pooled * (1.0 - pooled) * (1.0 / own.ended + 1.0 / ended))
    return better, 2 * better > len(peers) and own.failed_ratio - failed / ended > settings.z * deviation


def _with_look(answers: AnswerMemory, at: float, settings: FailingSettings, *, worse: bool) -> AnswerMemory:
    """Return the counts with this look noted if it found them ``worse``, and says something new."""
    kept = tuple(t for t in answers.worse_at if at - t <= settings.look_back_s)
    new = answers.ended_at == answers.told_at and answers.told_at not in kept
    return replace(answers, worse_at=(*kept, answers.told_at) if worse and new else kept)


def _errors(key: PoolKey, name: str, witness: _Witness, answers: AnswerMemory, settings: FailingSettings) -> Anomaly:
    since_at = answers.worse_at[0] if answers.worse_at else answers.told_at
    detail = f"{answers.failed_ratio:.0%} of its latest {answers.ended:.0f} answers are errors, {witness.said}"
    return Anomaly(witness.family, name, key, answers.failed_ratio / settings.failed_ratio, since_at, detail)


def _alone(key: PoolKey, name: str, answers: AnswerMemory, better: str, settings: FailingSettings) -> Anomaly:
    detail = f"{better} peers with the same requests fail far fewer"
    score = len(answers.worse_at) / settings.looks
    return Anomaly("cohort", name, key, score, answers.worse_at[0], detail)
