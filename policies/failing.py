"""Which replicas fail requests that their peers answer?

Errors have two witnesses: the gateway, which sees what a replica answers, and the engine's own count. Neither can tell
whose fault an error is. The cohort can: all replicas of a model get the same requests and depend on the same things, so
that what clients send, or an outage behind them all, shows at all of them alike. Only a replica that fails far more
than most of its peers is suspected, and only once that has been seen ``looks`` times.

Answers are counted with two half-lives. The short one tells a burst within two ticks; at little load, or with a single
peer, it holds too few answers for any share of errors to be beyond chance, and the long one goes on counting. At less
load still nothing with a half-life ever holds enough: a run of errors is counted from its first one until good answers
have outweighed it (a cumulative sum), and so are the answers of all peers in the same time, however long that takes.

Who is alone has no cohort. If the errors began lately, its own record before them (``record``) says that something has
changed, and not whether it is the replica or what it is sent; a peer is needed to tell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import hypergeom

from policies.answer_counts import COUNTING, LEVEL, LONG, RUN
from policies.decisions import Anomaly
from policies.failing_settings import FailingSettings
from policies.fleet import FleetState, Phase, PoolKey
from policies.memory import AnswerMemory, ReplicaMemory
from policies.watched import WatchedReplicas


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


def failing(
    fleet: FleetState, memory: WatchedReplicas, settings: FailingSettings
) -> tuple[list[Anomaly], dict[str, ReplicaMemory]]:
    """Return evidence against replicas that fail more than their peers, and memory of those whom this look concerns.

    A share of errors is evidence at once, that peers do not have it only after ``looks`` looks. Whoever answered
    nothing since the last look is neither judged nor heard. Who is alone is held against its own record.
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
                # Of those beyond suspicion nobody asks how their peers do: to compare everyone with everyone takes a
                # second per 1,000 replicas.
                others = [peer for other, peer in told.items() if other != name] if views else []
                verdict = _judged(answers, views, others, settings)
                looked = _with_look(answers, fleet.at, settings, verdict)
                if looked is not answers:
                    changed[name] = witness.write(changed.get(name, known[name]), looked)
                if views:
                    key, replica = cohort[name]
                    found.append(_errors(key, replica.id, witness, looked, views[0](looked), settings))
                    if verdict.family and len(looked.worse_at) >= settings.looks:
                        score, since_at = len(looked.worse_at) / settings.looks, looked.worse_at[0]
                        found.append(Anomaly(verdict.family, replica.id, key, score, since_at, verdict.detail))
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


def _run(answers: AnswerMemory) -> _Counts:
    return _Counts(answers.run_failed, answers.run_answered + answers.run_failed)


def _worth_a_look(memory: WatchedReplicas, settings: FailingSettings) -> set[str]:
    """Return who fails so much that peers are asked, and who was found to fail more than they before."""
    found: set[str] = set()
    for rows, least in ((COUNTING, settings.least_failed), (LONG, settings.least_failed_long)):
        counting = memory.answers[:, rows]
        answered, failed = counting[:, 0], counting[:, 1]
        many = (failed >= least) & (failed >= settings.failed_ratio * (answered + failed) * (1.0 - 1e-9))
        if np.count_nonzero(many):
            found |= {memory.names[place] for place in np.nonzero(many)[1].tolist()}
    run = memory.answers[:, RUN]
    long = (run[:, 1] >= settings.least_failed_long) & (memory.answers[:, LEVEL] >= _goes_on_from(settings))
    if np.count_nonzero(long):
        found |= {memory.names[place] for place in np.nonzero(long)[1].tolist()}
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
    run = _run(answers)
    lasting = run.failed >= settings.least_failed_long and run.ratio >= settings.failed_ratio
    if lasting and answers.run_level >= _goes_on_from(settings):
        views.append(_run)
    return views


def _goes_on_from(settings: FailingSettings) -> float:
    """Return from which level on a run is taken to go on: not after five good answers more than go with it."""
    return settings.most_level - 5.0 * settings.even_ratio


@dataclass(frozen=True, slots=True)
class _Verdict:
    """Which family of evidence speaks against it at this look, none if empty; and whether its whole run does."""

    family: str = ""
    detail: str = ""
    lasting: bool = False


def _judged(
    answers: AnswerMemory, views: Sequence[_View], others: Sequence[AnswerMemory], settings: FailingSettings
) -> _Verdict:
    """Return what its peers, or where nobody else answers its own record, say of a replica that is suspected."""
    for view in views:
        # Nobody's share means anything before one answer counts in full.
        peers = [peer for peer in others if (_long if view is _run else view)(peer).ended >= 1.0]
        better = _better(view, answers, peers, settings)
        if better:
            detail = f"{better} of {len(peers)} peers with the same requests fail far fewer"
            return _Verdict("cohort", detail, lasting=view is _run)
    if views and not any(peer.ended >= 1.0 for peer in others):
        return _against_its_record(answers, settings)
    return _Verdict()


def _better(view: _View, answers: AnswerMemory, others: Sequence[AnswerMemory], settings: FailingSettings) -> int:
    """Return how many peers fail far fewer; 0 unless it (suspicious) fails more than chance explains.

    Most peers must do better one by one, so that a second bad replica hides none. Chance is ruled out against all of
    them together. Of the short counts by a two-proportion z-test with the pooled share: 9 errors in 25 answers, where
    peers had 11 in 225, are 5.4 standard errors. Of the others by an exact test: at a quarter of the traffic, 14 errors
    in 47 answers, where peers had none in 141, are beyond it. That a run begins where errors do makes such a share as
    likely as it has answers to begin at, which are far fewer than ``chance`` leaves room for.
    """
    if not others:
        return 0
    own, peers = view(answers), [(_long if view is _run else view)(other) for other in others]
    better = sum(own.ratio >= settings.times_peers * peer.ratio for peer in peers)
    if 2 * better <= len(peers):
        return 0
    failed, ended = sum(peer.failed for peer in peers), sum(peer.ended for peer in peers)
    if view is _run:
        failed, ended = answers.peers_failed, answers.peers_answered + answers.peers_failed
    if view is not _short:
        return better if _chance(own, _Counts(failed, ended)) < settings.chance else 0
    pooled = (own.failed + failed) / (own.ended + ended)
    deviation = math.sqrt(pooled * (1.0 - pooled) * (1.0 / own.ended + 1.0 / ended))
    return better if own.ratio - failed / ended > settings.z * deviation else 0


def _against_its_record(answers: AnswerMemory, settings: FailingSettings) -> _Verdict:
    """Return what all that it answered before its run of errors says, where nobody was there to compare it with.

    Once a peer has answered in that time, it is for peers to say: a peer that fails alike would else be asked for
    again and again.
    """
    run = _run(answers)
    if answers.run_at is None or answers.peers_answered + answers.peers_failed >= settings.least_failed:
        return _Verdict()
    failed = answers.failed_total - answers.run_failed
    before = _Counts(failed, failed + answers.answered_total - answers.run_answered)
    if run.ratio < settings.times_peers * before.ratio or _chance(run, before) >= settings.chance:
        return _Verdict()
    detail = f"of {before.ended:.0f} answers before that {before.ratio:.1%} were, and no peer has the same requests"
    return _Verdict("record", detail, lasting=True)


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


def _with_look(answers: AnswerMemory, at: float, settings: FailingSettings, verdict: _Verdict) -> AnswerMemory:
    """Return the counts with this look noted if it found them worse, and says something new.

    Where a whole run speaks against it, looks count since that began, for few answers come at little load.
    """
    if not verdict.family and not answers.worse_at:
        return answers
    recent = tuple(t for t in answers.worse_at if at - t <= settings.look_back_s)
    kept = recent
    if verdict.lasting and answers.run_at is not None and len(recent) < settings.looks:
        kept = tuple(t for t in answers.worse_at if t >= answers.run_at)[-settings.looks :]
    new = answers.ended_at == answers.told_at and answers.told_at not in kept
    return replace(answers, worse_at=(*kept, answers.told_at) if verdict.family and new else kept)


def _errors(
    key: PoolKey, name: str, witness: _Witness, answers: AnswerMemory, counts: _Counts, settings: FailingSettings
) -> Anomaly:
    since_at = answers.worse_at[0] if answers.worse_at else answers.told_at
    detail = f"{counts.ratio:.0%} of its latest {counts.ended:.0f} answers are errors, {witness.said}"
    return Anomaly(witness.family, name, key, counts.ratio / settings.failed_ratio, since_at, detail)
