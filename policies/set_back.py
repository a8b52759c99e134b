"""What does memory look like once the clock was set back?"""

from __future__ import annotations

from dataclasses import replace

from policies.decisions import Reason
from policies.healing_memory import ActionMemory, CanaryBooks, RunMemory, StepMemory
from policies.memory import AnswerMemory, ModelMemory, PolicyMemory, PoolMemory, ReplicaMemory, RevisionMemory
from policies.residual_memory import LatencyMemory, LoadMemory, ResidualMemory

Counts = tuple[tuple[float, int], ...]


def follow_clock(memory: PolicyMemory, at: float) -> tuple[PolicyMemory, tuple[Reason, ...]]:
    """Return ``memory`` as it is, or with every instant moved back with the clock, as if no time had passed since.

    Otherwise what lies in the future would be taken for news, and every wait would last until the old time is reached
    again. All durations that were running (cooldowns, windows, time without a step) go on from where they were.
    """
    if memory.decided_at is None or at >= memory.decided_at:
        return memory, ()
    by_s = memory.decided_at - at
    moved = replace(
        memory,
        pools={key: _pool(known, by_s) for key, known in memory.pools.items()},
        models={name: _model(known, by_s) for name, known in memory.models.items()},
        replicas={name: _replica(known, by_s) for name, known in memory.replicas.items()},
        actions=tuple(_action(act, by_s) for act in memory.actions),
        cordons={name: replace(cordon, at=cordon.at - by_s) for name, cordon in memory.cordons.items()},
        runs={name: _run(run, by_s) for name, run in memory.runs.items()},
        pages={key: wanted_at - by_s for key, wanted_at in memory.pages.items()},
        blind_since_at=_back(memory.blind_since_at, by_s),
        canaries=_canaries(memory.canaries, by_s),
        decided_at=at,
        xids={
            name: replace(seen, since_at=seen.since_at - by_s, seen_at=seen.seen_at - by_s)
            for name, seen in memory.xids.items()
        },
    )
    detail = f"it shows {by_s:.0f} s less than at the last decision; what is remembered moves with it"
    return moved, (Reason("clock set back", "clock", memory.decided_at, at, detail),)


def _model(known: ModelMemory, by_s: float) -> ModelMemory:
    return replace(
        known,
        margin_at=_back(known.margin_at, by_s),
        usual_at=_back(known.usual_at, by_s),
        usual_from=_back(known.usual_from, by_s),
        seen_at=_back(known.seen_at, by_s),
        levels=tuple((at - by_s, finished, within) for at, finished, within in known.levels),
        load=_load(known.load, by_s),
    )


def _load(known: LoadMemory | None, by_s: float) -> LoadMemory | None:
    if known is None:
        return None
    due = tuple((ends_at - by_s, low, middle, high) for ends_at, low, middle, high in known.due)
    return replace(known, due=due, residual=_residual(known.residual, by_s))


def _latency(known: LatencyMemory | None, by_s: float) -> LatencyMemory | None:
    if known is None:
        return None
    return replace(
        known,
        explained_at=_back(known.explained_at, by_s),
        residual=_residual(known.residual, by_s),
        queued_at=_back(known.queued_at, by_s),
    )


def _residual(known: ResidualMemory, by_s: float) -> ResidualMemory:
    return replace(
        known,
        above_since=known.above_since - by_s,
        below_since=known.below_since - by_s,
        outside_at=tuple(at - by_s for at in known.outside_at),
        since_at=_back(known.since_at, by_s),
        ended_at=_back(known.ended_at, by_s),
    )


def _pool(known: PoolMemory, by_s: float) -> PoolMemory:
    return replace(
        known,
        targets=_counts(known.targets, by_s),
        desired=_counts(known.desired, by_s),
        unsound_at=_back(known.unsound_at, by_s),
        listed_at=_back(known.listed_at, by_s),
        failures=tuple(replace(failure, at=failure.at - by_s) for failure in known.failures),
        signs={name: tuple(at - by_s for at in seen_at) for name, seen_at in known.signs.items()},
        served_at=_back(known.served_at, by_s),
        given={name: at - by_s for name, at in known.given.items()},
        lost={name: (at - by_s, count) for name, (at, count) in known.lost.items()},
        latency=_latency(known.latency, by_s),
        revisions={name: _revision(revision, by_s) for name, revision in known.revisions.items()},
        troubles={name: replace(each, seen_at=each.seen_at - by_s) for name, each in known.troubles.items()},
        moves=tuple(replace(move, began_at=move.began_at - by_s, at=move.at - by_s) for move in known.moves),
    )


def _revision(known: RevisionMemory, by_s: float) -> RevisionMemory:
    return replace(
        known,
        seen_at=known.seen_at - by_s,
        looked_at=known.looked_at - by_s,
        rolled_back_at=_back(known.rolled_back_at, by_s),
    )


def _run(run: RunMemory, by_s: float) -> RunMemory:
    return replace(
        run,
        began_at=run.began_at - by_s,
        deadline_at=run.deadline_at - by_s,
        ended_at=_back(run.ended_at, by_s),
        steps={path: _step(step, by_s) for path, step in run.steps.items()},
    )


def _step(step: StepMemory, by_s: float) -> StepMemory:
    return replace(step, began_at=step.began_at - by_s, asked_at=_back(step.asked_at, by_s))


def _replica(known: ReplicaMemory, by_s: float) -> ReplicaMemory:
    return replace(
        known,
        observed_at=known.observed_at - by_s,
        stepped_at=known.stepped_at - by_s,
        slow_at=tuple(at - by_s for at in known.slow_at),
        answered_at=_back(known.answered_at, by_s),
        fell_at=_back(known.fell_at, by_s),
        unreached_at=_back(known.unreached_at, by_s),
        tpot_at=_back(known.tpot_at, by_s),
        moved_at=_back(known.moved_at, by_s),
        explained_at=_back(known.explained_at, by_s),
        by_gateway=_answers(known.by_gateway, by_s),
        by_itself=_answers(known.by_itself, by_s),
    )


def _answers(known: AnswerMemory | None, by_s: float) -> AnswerMemory | None:
    if known is None:
        return None
    return replace(
        known,
        told_at=known.told_at - by_s,
        ended_at=_back(known.ended_at, by_s),
        run_at=_back(known.run_at, by_s),
        worse_at=tuple(at - by_s for at in known.worse_at),
    )


def _canaries(books: CanaryBooks, by_s: float) -> CanaryBooks:
    return CanaryBooks(
        {model: tuple(at - by_s for at in asked_at) for model, asked_at in books.asked_at.items()},
        {pool: asked_at - by_s for pool, asked_at in books.heard_at.items()},
        {
            name: replace(
                known,
                asked_at=known.asked_at - by_s,
                first_at=_back(known.first_at, by_s),
                told_at=_back(known.told_at, by_s),
            )
            for name, known in books.replicas.items()
        },
    )


def _action(act: ActionMemory, by_s: float) -> ActionMemory:
    return replace(act, started_at=act.started_at - by_s, deadline_at=act.deadline_at - by_s)


def _counts(counts: Counts, by_s: float) -> Counts:
    return tuple((at - by_s, count) for at, count in counts)


def _back(at: float | None, by_s: float) -> float | None:
    return None if at is None else at - by_s
