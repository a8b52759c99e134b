"""Which replicas fail requests that their peers answer?

Errors have two witnesses: the gateway, which sees what a replica answers, and the engine's own count. Neither can tell
whose fault an error is. The cohort can: all replicas of a model get the same requests and depend on the same things, so
that what clients send, or an outage behind them all, shows at all of them alike. Only a replica that fails far more
than most of its peers is suspected, and only once that has been seen ``looks`` times.

Answers are counted with two half-lives. The short one tells a burst within two ticks; at little load, or with a single
peer, it holds too few answers for any share of errors to be beyond chance, and the long one goes on counting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.stats import hypergeom

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
    long_half_life_s: float = Field(
        120.0, gt=0, description="The longer half-life, in seconds: for replicas that answer once in some seconds."
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
    chance: float = Field(
        1e-9,
        gt=0,
        lt=1,
        description="Chance of as many errors being its own, if all replicas failed alike (Fisher's exact test), "
        "below which it is none, of what counts with the longer half-life: far less than the z-score leaves, since "
        "that changes little from one look to the next.",
    )
    least_failed: float = Field(5.0, ge=1, description="Errors that must count at the moment; fewer are single errors.")
    least_failed_long: float = Field(
        12.0,
        ge=1,
        description="The same with the longer half-life: fewer in the minutes that it holds cost less than a restart.",
    )
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
_LONG = slice(ANSWER_ROW["answered_long"], ANSWER_ROW["failed_long"] + 1)


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
        before: ``float64[2, 8, N]``, as ``WatchedReplicas.answers``; NaN where nothing was counted.
        at: ``float64[2, N]``, when the counters were read.
        totals: ``float64[2, 2, N]``, answers that ended as they should and errors so far; NaN where nobody counts them.
        settings: Half-lives and look-back.
    """
    growth = totals - before[:, _TOTALS]
    elapsed_s = at - before[:, _TOLD_AT]
    given = ~np.isnan(totals[:, 0] + totals[:, 1])
    late = ~(elapsed_s <= settings.look_back_s)  # or never counted
    later = given & ~late & (elapsed_s > 0)
    fell = later & ((growth[:, 0] < 0) | (growth[:, 1] < 0))
    grown, new = later & ~fell, (given & late) | fell
    ended = grown & (growth[:, 0] + growth[:, 1] > 0)
    after = before.copy()
    np.copyto(after[:, _TOTALS], totals, where=(grown | new)[:, None])
    np.copyto(after[:, _TOLD_AT], at, where=grown | new)
    np.copyto(after[:, _ENDED_AT], at, where=ended)
    for rows, half_life_s in ((_COUNTING, settings.half_life_s), (_LONG, settings.long_half_life_s)):
        kept = _kept(elapsed_s, grown, half_life_s)
        counting = rounded(before[:, rows] * kept[:, None] + growth)
        np.copyto(after[:, rows], counting, where=grown[:, None])
    if np.count_nonzero(new):
        np.copyto(after[:, _COUNTING], 0.0, where=new[:, None])
        np.copyto(after[:, _LONG], 0.0, where=new[:, None])
        np.copyto(after[:, _ENDED_AT], np.nan, where=new)
    return after, new


def _kept(elapsed_s: Floats, grown: Bools, half_life_s: float) -> Floats:
    """Return which share of what was counted still counts, by Python's power, whose last bit is the same everywhere."""
    halvings = np.where(grown, elapsed_s / half_life_s, 0.0).ravel().tolist()  # replicas share a few lengths of time
    weight = {exponent: 0.5**exponent for exponent in set(halvings)}
    return np.array([weight[exponent] for exponent in halvings]).reshape(elapsed_s.shape)


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
                answers = told[name]
                views = _views(answers, settings)
                # Nobody's share means anything before one answer counts in full. Of those beyond suspicion nobody
                # asks how their peers do: to compare everyone with everyone takes a second per 1,000 replicas.
                peers = [peer for other, peer in told.items() if other != name and peer.ended >= 1.0] if views else []
                compared = [_compared(view, answers, peers, settings) for view in views]
                better, worse = max(compared, key=lambda found: found[1], default=(0, False))
                looked = _with_look(answers, fleet.at, settings, worse=worse)
                if looked is not answers:
                    changed[name] = witness.write(changed.get(name, known[name]), looked)
                if views:
                    key, replica = cohort[name]
                    found.append(_errors(key, replica.id, witness, looked, views[0](looked), settings))
                    if worse and len(looked.worse_at) >= settings.looks:
                        found.append(_alone(key, replica.id, looked, f"{better} of {len(peers)}", settings))
    return found, changed


@dataclass(frozen=True, slots=True)
class _Counts:
    """Answers that count in one view."""

    failed: float
    ended: float

    @property
    def ratio(self) -> float:
        return self.failed / self.ended if self.ended > 0 else 0.0


_View = Callable[[AnswerMemory], _Counts]


def _short(answers: AnswerMemory) -> _Counts:
    return _Counts(answers.failed, answers.ended)


def _long(answers: AnswerMemory) -> _Counts:
    return _Counts(answers.failed_long, answers.answered_long + answers.failed_long)


def _worth_a_look(memory: WatchedReplicas, settings: FailingSettings) -> set[str]:
    """Return who fails so much that peers are asked, and who was found to fail more than they before."""
    found: set[str] = set()
    for rows, least in ((_COUNTING, settings.least_failed), (_LONG, settings.least_failed_long)):
        counting = memory.answers[:, rows]
        answered, failed = counting[:, 0], counting[:, 1]
        many = (failed >= least) & (failed >= settings.failed_ratio * (answered + failed) * (1.0 - 1e-9))
        if np.count_nonzero(many):
            found |= {memory.names[place] for place in np.nonzero(many)[1].tolist()}
    return found.union(memory.worse_by_gateway, memory.worse_by_itself)


def _recent(answers: AnswerMemory, at: float, settings: FailingSettings) -> bool:
    return at - answers.told_at <= settings.max_age_s


def _views(answers: AnswerMemory, settings: FailingSettings) -> list[_View]:
    """Return in which views it fails enough to be suspected: what was in minutes, only as long as it goes on."""
    short, long = _short(answers), _long(answers)
    goes_on = short.failed >= 1.0 and short.ratio >= settings.failed_ratio
    views: list[_View] = [_short] if goes_on and short.failed >= settings.least_failed else []
    if goes_on and long.failed >= settings.least_failed_long and long.ratio >= settings.failed_ratio:
        views.append(_long)
    return views


def _compared(
    view: _View, answers: AnswerMemory, others: Sequence[AnswerMemory], settings: FailingSettings
) -> tuple[int, bool]:
    """Return how many peers fail far fewer, and whether it (suspicious) fails more than chance explains.

    Most peers must do better one by one, so that a second bad replica hides none. Chance is ruled out against all of
    them together. Of the short counts by a two-proportion z-test with the pooled share: 9 errors in 25 answers, where
    peers had 11 in 225, are 5.4 standard errors. Of the long ones by an exact test.
    """
    if not others:
        return 0, False
    own, peers = view(answers), [view(other) for other in others]
    better = sum(own.ratio >= settings.times_peers * peer.ratio for peer in peers)
    failed, ended = sum(peer.failed for peer in peers), sum(peer.ended for peer in peers)
    if 2 * better <= len(peers):
        return better, False
    if view is _long:
        return better, _chance(own, _Counts(failed, ended)) < settings.chance
    pooled = (own.failed + failed) / (own.ended + ended)
    deviation = math.sqrt(pooled * (1.0 - pooled) * (1.0 / own.ended + 1.0 / ended))
    return better, own.ratio - failed / ended > settings.z * deviation


def _chance(own: _Counts, peers: _Counts) -> float:
    """Return how likely it is that as many of all errors are its own if all fail alike (hypergeometric tail).

    Counts with a half-life are no whole numbers, and vary less than whole ones would; they are rounded to its favour.

    >>> _chance(_Counts(16.0, 56.0), _Counts(0.0, 1000.0)) < 1e-18
    True
    >>> _chance(_Counts(5.0, 20.0), _Counts(10.0, 180.0)) > 0.001
    True
    """
    mine, theirs = math.floor(own.failed), math.ceil(peers.failed)
    answers, of_peers = math.ceil(own.ended), max(theirs, math.floor(peers.ended))
    return float(hypergeom.sf(mine - 1, answers + of_peers, mine + theirs, answers))


def _with_look(answers: AnswerMemory, at: float, settings: FailingSettings, *, worse: bool) -> AnswerMemory:
    """Return the counts with this look noted if it found them ``worse``, and says something new."""
    if not worse and not answers.worse_at:
        return answers
    kept = tuple(t for t in answers.worse_at if at - t <= settings.look_back_s)
    new = answers.ended_at == answers.told_at and answers.told_at not in kept
    return replace(answers, worse_at=(*kept, answers.told_at) if worse and new else kept)


def _errors(
    key: PoolKey, name: str, witness: _Witness, answers: AnswerMemory, counts: _Counts, settings: FailingSettings
) -> Anomaly:
    since_at = answers.worse_at[0] if answers.worse_at else answers.told_at
    detail = f"{counts.ratio:.0%} of its latest {counts.ended:.0f} answers are errors, {witness.said}"
    return Anomaly(witness.family, name, key, counts.ratio / settings.failed_ratio, since_at, detail)


def _alone(key: PoolKey, name: str, answers: AnswerMemory, better: str, settings: FailingSettings) -> Anomaly:
    detail = f"{better} peers with the same requests fail far fewer"
    score = len(answers.worse_at) / settings.looks
    return Anomaly("cohort", name, key, score, answers.worse_at[0], detail)
