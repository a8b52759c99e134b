"""Why was a part of a decision decided: what asked for it, and what bounded it, in words that fit in one sentence?

Whoever reads it has no record at hand: an approver who was called, somebody who looks at an object of a cluster. What
a rule noted of every pool and model is in the record, and ``foresail explain`` shows all of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from controller.modes import ActionClass
from controller.plans import Part, Target, target_of
from policies.decisions import Decision, FailOver, Reason, ScalingPlan
from policies.fleet import FleetState, PoolKey

MOST_WORDS = 6
MOST_WHY_CHARS = 600

_PREDICTED = "predictive target"
_LOAD = frozenset((_PREDICTED, "reactive only"))
"""Rules of which exactly one speaks for each stage of a model that is sized by its load."""

_ASKED: Mapping[str, str] = {
    "backlog": "backlog: ",
    "KV pressure": "",
    "burn rate": "",
    "attainment feedback": "",
    _PREDICTED: "forecast ",
    "reactive only": "",
    "forecast refused": "forecast refused: ",
    "forecast not trusted": "forecast not trusted: ",
    "lost capacity": "",
    "waiting for GPUs": "",
}
"""What asks for replicas, and how the words of each begin."""

_OF_MODEL = frozenset(("attainment feedback", "forecast refused", "forecast not trusted"))
_UP_TO_LOAD = _LOAD | {"backlog", "KV pressure", "burn rate", "predictive cap"}
"""Of each stage, what is noted of its model before and with its load; all else is after that."""

_BOUNDED = frozenset(
    (
        "predictive cap",
        "forecast is a floor",
        "growth tolerance",
        "out of room",
        "stabilization",
        "no shrink",
        "no shrink while starting",
        "rate limit",
        "bounds",
        "growth held",
        "GPU budget",
        "money budget",
    )
)
"""What changes the number that was asked for."""


def why_of(part: Part, decision: Decision, fleet: FleetState | None = None) -> str:
    """Return why ``part`` of ``decision`` was decided, as far as that says; ``fleet`` is what it was made about.

    At most ``MOST_WHY_CHARS`` characters, and nothing where no rule and no diagnosis speaks of it.
    """
    target = target_of(part)
    if isinstance(part, ScalingPlan):
        words = _scaled(part, decision, fleet)
    elif target.action_class is ActionClass.TRAFFIC:
        words = list(_shifted(target.model, decision))
    else:
        words = _healed(target, decision)
    told = "; ".join(words[:MOST_WORDS])
    return told if len(told) <= MOST_WHY_CHARS else f"{told[: MOST_WHY_CHARS - 3]}..."


def _scaled(plan: ScalingPlan, decision: Decision, fleet: FleetState | None) -> list[str]:
    """Return the load now and to come, what burns, and then what was made of the number that asks for."""
    pool, model = str(plan.pool), plan.pool.model
    spoken = list(_of_stage(plan.pool, decision.reasons, fleet))
    asked = [r for r in spoken if r.rule in _ASKED and r.subject in (pool, model)]
    bounded = [r for r in spoken if r.rule in _BOUNDED and r.subject in (pool, model) and r.before != r.after]
    demand = fleet.demand.get(model) if fleet is not None else None
    load = [f"load {demand.requests_per_s:.1f} requests/s now"] if demand is not None else []
    burns = [f"{_ASKED[r.rule]}{r.detail}" for r in asked if r.rule not in _LOAD]
    forecast = [f"{_ASKED[r.rule]}{_sized(r)}" for r in asked if r.rule in _LOAD]
    asks = [*load, *burns, *forecast]
    return [*asks, *(f"{'then ' if asks else ''}{_change(r)}" for r in bounded)]


def _sized(reason: Reason) -> str:
    """Return what is forecast and what a replica carries, without how far the forecaster is believed."""
    return "; ".join(reason.detail.split("; ")[:2])


def _of_stage(pool: PoolKey, reasons: Sequence[Reason], fleet: FleetState | None) -> Iterator[Reason]:
    """Yield the reasons of the pool's stage: those of a model name none, and stand in the order of its stages."""
    stages = fleet.stages_of(pool.model) if fleet is not None else ()
    sized = sum(r.rule in _LOAD and r.subject == pool.model for r in reasons)
    if sized < 2 or sized != len(stages) or pool.stage not in stages:
        yield from reasons
        return
    mine, stage = stages.index(pool.stage), 0
    for reason in reasons:
        turn = mine if reason.rule in _UP_TO_LOAD else mine + 1
        if reason.subject != pool.model or reason.rule in _OF_MODEL or stage == turn:
            yield reason
        stage += reason.rule in _LOAD and reason.subject == pool.model


def _shifted(model: str, decision: Decision) -> Iterator[str]:
    """Yield which pool was given up, and how each share moved."""
    for part in decision.remediations:
        if isinstance(part, FailOver) and part.model == model:
            yield f"{part.origin.pool} is given up for {part.destination.pool} ({part.cause})"
    for reason in decision.reasons:
        if reason.rule == "traffic" and reason.before != reason.after and reason.subject.startswith(f"{model}/"):
            pool = PoolKey.parse(reason.subject).pool
            yield f"{pool} from {reason.before:.0%} to {reason.after:.0%} ({reason.detail})"


def _healed(target: Target, decision: Decision) -> list[str]:
    """Return what is believed to be wrong; where nothing is, what the rule says that did it."""
    believed = [
        d.told
        for d in decision.diagnoses
        if target.subject == (d.pool.replica(d.subject) if d.subject else str(d.pool))
    ]
    if believed:
        return believed
    return [r.detail for r in decision.reasons if r.rule == "avoid node" and r.subject == target.subject]


def _change(reason: Reason) -> str:
    return f"{reason.rule} {reason.before:.4g} -> {reason.after:.4g} ({reason.detail})"
