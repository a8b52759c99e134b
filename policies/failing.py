"""Which replicas fail requests that their peers answer?

Errors have two witnesses: the gateway, which sees what a replica answers, and the engine's own count. Neither can tell
whose fault an error is. The cohort can: all replicas of a model get the same requests and depend on the same things, so
that what clients send, or an outage behind them all, shows at all of them alike. Only a replica that fails far more
than most of its peers is suspected, and only once that has been seen ``looks`` times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from policies.decisions import Anomaly
from policies.fleet import FleetState, Phase, PoolKey
from policies.memory import AnswerMemory, ReplicaMemory
from policies.roster import Bools, Floats
from policies.watched import ANSWER_ROW, WatchedReplicas


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


_TOTALS = slice(ANSWER_ROW["answered_total"], ANSWER_ROW["failed_total"] + 1)
_TOLD_AT, _ENDED_AT = ANSWER_ROW["told_at"], ANSWER_ROW["ended_at"]
_COUNTING = slice(ANSWER_ROW["answered"], ANSWER_ROW["failed"] + 1)


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


def counted(before: Floats, at: Floats, totals: Floats, settings: FailingSettings) -> tuple[Floats, Bools]:
    """Return the answers of N replicas counted on by both witnesses, and ``bool[2, N]``, whose count begins anew.

    It stays as it was where a counter is not given, and begins anew where one fell (F14).

    Args:
        before: ``float64[2, 6, N]``, as ``WatchedReplicas.answers``; NaN where nothing was counted.
        at: ``float64[2, N]``, when the counters were read.
        totals: ``float64[2, 2, N]``, answers that ended as they should and errors so far; NaN where nobody counts them.
        settings: Half-life and look-back.
    """
    growth = totals - before[:, _TOTALS]
    elapsed_s = at - before[:, _TOLD_AT]
    given = ~np.isnan(totals[:, 0] + totals[:, 1])
    late = ~(elapsed_s <= settings.look_back_s)  # or never counted
    later = given & ~late & (elapsed_s > 0)
    fell = later & ((growth[:, 0] < 0) | (growth[:, 1] < 0))
    grown, new = later & ~fell, (given & late) | fell
    # By Python's power, whose last bit is the same wherever this runs; replicas share a few lengths of time.
    halvings = np.where(grown, elapsed_s / settings.half_life_s, 0.0).ravel().tolist()
    weight = {exponent: 0.5**exponent for exponent in set(halvings)}
    kept = np.array([weight[exponent] for exponent in halvings]).reshape(elapsed_s.shape)
    ended = grown & (growth[:, 0] + growth[:, 1] > 0)
    after = before.copy()
    np.copyto(after[:, _TOTALS], totals, where=(grown | new)[:, None])
    np.copyto(after[:, _TOLD_AT], at, where=grown | new)
    np.copyto(after[:, _ENDED_AT], at, where=ended)
    counting = rounded(before[:, _COUNTING] * kept[:, None] + growth)
    np.copyto(after[:, _COUNTING], counting, where=grown[:, None])
    if np.count_nonzero(new):
        np.copyto(after[:, _COUNTING], 0.0, where=new[:, None])
        np.copyto(after[:, _ENDED_AT], np.nan, where=new)
    return after, new


def rounded(values: Floats) -> Floats:
    """Return ``values``, not negative, rounded to three digits just as ``round`` does, which takes ten times as long.

    A thousandth is rounded as ``round`` would unless it lies so near to a half that scaling may have moved it.

    >>> rounded(np.array([2.6745, 2.0005, 0.1234])).tolist() == [round(x, 3) for x in (2.6745, 2.0005, 0.1234)]
    True
    """
    scaled = values * 1000.0
    near = np.rint(scaled)
    answer: Floats = near / 1000.0
    unsure = (np.abs(scaled - near) > 0.5 - 1e-6) | (scaled > 2.0**30)
    if np.count_nonzero(unsure):
        answer[unsure] = [round(value, 3) for value in values[unsure].tolist()]
    return answer


def failing(
    fleet: FleetState, memory: WatchedReplicas, settings: FailingSettings
) -> tuple[list[Anomaly], dict[str, ReplicaMemory]]:
    """Return evidence against replicas that fail more than their peers, and memory of those whom this look concerns.

    A share of errors is evidence at once, that peers do not have it only after ``looks`` looks. Whoever answered
    nothing since the last look is neither judged nor heard.
    """
    found: list[Anomaly] = []
    changed: dict[str, ReplicaMemory] = {}
    worth_a_look = _worth_a_look(memory, settings)
    if not worth_a_look:
        return found, changed
    known = memory.as_dict()
    for stage in fleet.stages:
        cohort = {
            name: (p.key, r)
            for p in fleet.pools_in(stage)
            for name, r in zip(p.roster.names(str(p.key)), p.roster.replicas, strict=True)
            if r.phase is Phase.READY and name in known
        }
        if worth_a_look.isdisjoint(cohort):
            continue
        for witness in _WITNESSES:
            told = {
                name: answers
                for name in cohort
                if (answers := witness.read(known[name])) and _recent(answers, fleet.at, settings)
            }
            for name in [name for name in told if name in worth_a_look]:
                answers, suspicious = told[name], _suspicious(told[name], settings)
                # Nobody's share means anything before one answer counts in full. Of those beyond suspicion nobody
                # asks how their peers do: to compare everyone with everyone takes a second per 1,000 replicas.
                peers = (
                    [peer for other, peer in told.items() if other != name and peer.ended >= 1.0] if suspicious else []
                )
                better, worse = _compared(answers, peers, settings)
                looked = _with_look(answers, fleet.at, settings, worse=worse)
                if looked is not answers:
                    changed[name] = witness.write(changed.get(name, known[name]), looked)
                if suspicious:
                    key, replica = cohort[name]
                    found.append(_errors(key, replica.id, witness, looked, settings))
                    if worse and len(looked.worse_at) >= settings.looks:
                        found.append(_alone(key, replica.id, looked, f"{better} of {len(peers)}", settings))
    return found, changed


def _worth_a_look(memory: WatchedReplicas, settings: FailingSettings) -> set[str]:
    """Return who fails so much that peers are asked, and who was found to fail more than they before."""
    counting = memory.answers[:, _COUNTING]
    answered, failed = counting[:, 0], counting[:, 1]
    many = (failed >= settings.least_failed) & (failed >= settings.failed_ratio * (answered + failed) * (1.0 - 1e-9))
    found = {memory.names[place] for place in np.nonzero(many)[1].tolist()} if np.count_nonzero(many) else set()
    return found.union(memory.worse_by_gateway, memory.worse_by_itself)


def _recent(answers: AnswerMemory, at: float, settings: FailingSettings) -> bool:
    return at - answers.told_at <= settings.max_age_s


def _suspicious(answers: AnswerMemory, settings: FailingSettings) -> bool:
    return answers.failed >= settings.least_failed and answers.failed_ratio >= settings.failed_ratio


def _compared(own: AnswerMemory, peers: Sequence[AnswerMemory], settings: FailingSettings) -> tuple[int, bool]:
    """Return how many peers fail far fewer, and whether it (suspicious) fails more than chance explains.

    Most peers must do better one by one, so that a second bad replica hides none. Chance is ruled out against all of
    them together, by a two-proportion z-test with the pooled share: 9 errors in 25 answers, where peers had 11 in 225,
    are 5.4 standard errors.
    """
    if not peers:
        return 0, False
    better = sum(own.failed_ratio >= settings.times_peers * peer.failed_ratio for peer in peers)
    failed, ended = sum(peer.failed for peer in peers), sum(peer.ended for peer in peers)
    pooled = (own.failed + failed) / (own.ended + ended)
    deviation = math.sqrt(pooled * (1.0 - pooled) * (1.0 / own.ended + 1.0 / ended))
    return better, 2 * better > len(peers) and own.failed_ratio - failed / ended > settings.z * deviation


def _with_look(answers: AnswerMemory, at: float, settings: FailingSettings, *, worse: bool) -> AnswerMemory:
    """Return the counts with this look noted if it found them ``worse``, and says something new."""
    if not worse and not answers.worse_at:
        return answers
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
