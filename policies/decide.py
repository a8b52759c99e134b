"""What should be done now? The whole of Foresail's judgement, as one pipeline of pure steps.

    lead times -> evidence -> diagnosis -> healing
               -> per stage of each model: failover -> need -> placement -> stabilization -> guardrails -> traffic
               -> budgets

Each step is a module of its own and leaves a ``Reason`` for everything that it changed, refused or held.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from forecasting.forecast import LoadForecast
from policies import canaries, guardrails
from policies.beside import correlated, held_movements, with_moves
from policies.decisions import Decision, Diagnosis, FailOver, Reason, ScalingPlan, TrafficPlan
from policies.diagnosis import unexplained
from policies.examination import examine, room_elsewhere
from policies.failover import fail_over
from policies.fleet import FleetState, PoolKey, PoolState, Stage
from policies.forecast_fitness import fit_for_use
from policies.healing import Course, Outside, heal
from policies.lead_time import LeadTime, lead_time, observe_starts
from policies.memory import ModelMemory, PolicyMemory, PoolMemory
from policies.placement import PoolOption, PoolSettings
from policies.playbook import Hold
from policies.pool_evidence import lately
from policies.progress import taking_prompts
from policies.scaling import steer_margin
from policies.set_back import follow_clock
from policies.settings import PolicySettings
from policies.sizing import Outlook, hold, look_ahead, needed_by, pool_options, size
from policies.traffic import weigh
from policies.undone import not_to_be_learned
from policies.unseen import look_of, seen_again, unseen_pages, untold_pages
from policies.vanished import vanished
from policies.waiting import not_coming
from policies.watched import WatchedReplicas
from policies.wire import Digest

__all__ = ["Foresail", "PolicySettings", "decide"]


@dataclass(slots=True)
class _Draft:
    """What has been decided so far in this tick, and which models are ``incomplete`` or ``taking_prompts``.

    ``blind`` says of models why nothing of them may be given up for want of data, ``burdened`` which pools got into
    trouble after we had given them more to do.
    """

    reasons: list[Reason] = field(default_factory=list)
    pools: dict[str, PoolMemory] = field(default_factory=dict)
    models: dict[str, ModelMemory] = field(default_factory=dict)
    desired: dict[PoolKey, int] = field(default_factory=dict)
    traffic: list[TrafficPlan] = field(default_factory=list)
    failovers: list[FailOver] = field(default_factory=list)
    blind: Mapping[str, str] = field(default_factory=dict)
    burdened: Mapping[PoolKey, Diagnosis] = field(default_factory=dict)
    incomplete: frozenset[str] = frozenset()
    taking_prompts: frozenset[str] = frozenset()


def decide(
    fleet: FleetState,
    forecasts: Mapping[str, LoadForecast],
    memory: PolicyMemory,
    settings: PolicySettings,
    settings_digest: Digest | None = None,
) -> Decision:
    """Return what to do about ``fleet``. Pure: the same arguments give the same decision, digest included.

    Whoever decides again and again with the same settings may give their digest, so that it is worked out once.
    """
    memory, clock_reasons = follow_clock(memory, fleet.at)
    gone = vanished(fleet, memory, settings.anomaly.keep_vanished_s)
    draft = _Draft(reasons=[*clock_reasons, *seen_again(memory, fleet.at), *gone.reasons], incomplete=gone.incomplete)
    for pool in fleet.pools:
        known = with_moves(pool, memory.pools.get(str(pool.key), PoolMemory()), fleet.at)
        known = replace(known, listed_at=fleet.at)
        draft.pools[str(pool.key)] = observe_starts(pool, known, settings.lead_time)
    lead_times = {key: lead_time(known, settings.lead_time) for key, known in draft.pools.items()}

    unlearned = not_to_be_learned(memory)
    found = examine(fleet, memory, draft.pools, lead_times, settings, forecasts, unlearned)
    draft.pools.update(found.pools)
    diagnoses, troubled = correlated(fleet, found.diagnoses, memory, draft.pools)
    draft.pools.update(troubled)
    seen = found.watch
    draft.burdened = held_movements(diagnoses)
    draft.taking_prompts = taking_prompts(fleet, WatchedReplicas.of(seen.memory), settings.anomaly.max_metrics_age_s)
    least = {key: pool.min_replicas for key, pool in settings.pools.items()}
    mine = [model for model in fleet.models if any(str(pool.key) in settings.pools for pool in fleet.pools_of(model))]
    draft.blind = {model: unseen for model in mine if (unseen := _blind(fleet, model, settings, draft))}
    draft.models.update(look_of(found.models, mine, draft.blind, fleet.at))
    blind_after_s = settings.healing.blind_page_after_s
    pages = unseen_pages(draft.models, draft.blind, diagnoses, fleet.at, blind_after_s)
    pages += untold_pages([p for p in fleet.pools if str(p.key) in settings.pools], fleet.at, blind_after_s)
    outside = Outside(room_elsewhere(fleet, diagnoses), found.burn, pages, found.surging)
    informed = replace(memory, pools={**memory.pools, **draft.pools}, xids=found.xids)
    believed = unexplained(fleet, diagnoses, lately(found.pools))
    course = heal(fleet, believed, seen, informed, lead_times, least, settings.healing, outside)
    draft.pools.update(course.pools)
    draft.reasons += course.reasons

    fit, why = fit_for_use(fleet, forecasts, memory, settings)
    draft.reasons += why
    for model in fleet.models:
        known_model = draft.models.get(model) or found.models.get(model, ModelMemory())
        _decide_model(fleet, model, fit.get(model), known_model, course, lead_times, settings, draft)
    in_vain = {
        pool.key: min(not_coming(pool, lead_times[str(pool.key)], fleet.at), max(0, pool.desired - bounds.min_replicas))
        for pool in fleet.pools
        if (bounds := settings.pools.get(str(pool.key))) and not pool.owner and not pool.untold
    }
    within, why = guardrails.spend_within(draft.desired, fleet.pools, settings.guardrails, in_vain)
    draft.reasons += why
    scaling = _plans(fleet, within, course.cordons)
    asked = {key: weight for plan in draft.traffic for key, weight in plan.weights.items()}
    for pool in fleet.pools:
        name, count = str(pool.key), within.get(pool.key, pool.desired)
        draft.pools[name] = guardrails.remember_desired(draft.pools[name], pool, count, fleet.at, settings.guardrails)
        if pool.key in asked:
            draft.pools[name] = replace(draft.pools[name], asked_weight=round(asked[pool.key], 4))

    watched = WatchedReplicas.of(seen.memory)
    wanted = canaries.ask(
        fleet, found.canaries, watched, course.cordons, settings.pools, settings.anomaly.canary,
        settings.anomaly.max_metrics_age_s,
    )  # fmt: skip
    generation = memory.generation + 1
    settings_digest = settings_digest or Digest(settings)
    return Decision(
        at=fleet.at,
        generation=generation,
        input_digest=Digest((fleet, forecasts, memory, settings_digest)),
        expires_at=fleet.at + settings.plan_expiry_s,
        scaling=scaling,
        traffic=tuple(draft.traffic),
        anomalies=found.anomalies,
        diagnoses=diagnoses,
        remediations=(*course.remediations, *draft.failovers),
        reasons=(*draft.reasons, *wanted.reasons),
        memory=PolicyMemory(
            generation,
            {**gone.pools, **draft.pools},
            {**gone.models, **draft.models},
            seen.memory,
            course.actions,
            course.cordons,
            course.pages,
            decided_at=fleet.at,
            runs=course.runs,
            xids=found.xids,
            canaries=wanted.books,
        ),
        settings_digest=settings_digest,
        burn={model: burn for model, burn in found.burn.items() if burn.most > 1.0},
        canaries=wanted.canaries,
    )


@dataclass(frozen=True, slots=True)
class Foresail:
    """The policy of this project, as something that the control loop can hold."""

    settings: PolicySettings
    name: str = "foresail"
    _digest: Digest = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_digest", Digest(self.settings))

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        """Return what to do about ``fleet``; see :func:`decide`."""
        return decide(fleet, forecasts, memory, self.settings, self._digest)


def _decide_model(
    fleet: FleetState,
    model: str,
    forecast: LoadForecast | None,
    known: ModelMemory,
    course: Course,
    lead_times: Mapping[str, LeadTime],
    settings: PolicySettings,
    draft: _Draft,
) -> None:
    """Size the pools of one model and share its traffic, stage by stage."""
    stages = [(part, pools) for stage in fleet.stages_of(model)
              if (pools := _managed(part := fleet.part(stage), model, settings, draft))]  # fmt: skip
    draft.models[model] = known
    if not stages:
        return
    objective = settings.objective_of(model)
    known, why = steer_margin(known, fleet, model, objective, settings.scaling)
    draft.reasons += why
    draft.models[model] = known
    incomplete = model in draft.incomplete
    blind = draft.blind.get(model, "")
    sick = _burdened(model, draft) or _held(fleet, model, course, "shrinking")
    sick = "too many replicas look sick" if model in course.stopped else sick
    current = {p.key: p.weight for p in fleet.pools_of(model)}
    weights = dict(current)
    for part, pools in stages:
        lead_time_s = max(lead_times[str(p.key)].p90_s for p, _ in pools)
        outlook = look_ahead(forecast, fleet.demand.get(model), fleet.at, lead_time_s, settings)
        waiting = {k: not_coming(p, lead_times[k], fleet.at) for p, _ in pools if (k := str(p.key))}
        options = pool_options(pools, objective, outlook.shape, course.lost, settings.capacity, waiting)
        given_up = {key for key, holding in course.holding.items() if "traffic" in holding}
        failover = fail_over(part, model, options, draft.pools, settings.failover, settings.traffic, given_up)
        draft.pools.update(failover.memory)
        draft.failovers += failover.moves
        draft.reasons += failover.reasons
        _size_stage(part, model, outlook, failover.options, known, (blind, sick), settings, draft)
        _hold_growth(pools, course, draft)
        moved, why = weigh(part, model, failover.options, settings.traffic, tuple(draft.burdened), hold=bool(blind))
        draft.reasons += why
        weights.update(moved)
    if weights != current and not incomplete and _can_be_set(weights, fleet.stages_of(model)):
        draft.traffic.append(TrafficPlan(model, weights))


def _blind(fleet: FleetState, model: str, settings: PolicySettings, draft: _Draft) -> str:
    """Return why nothing of a model may be given up for want of data; empty when it is well observed."""
    if model in draft.incomplete:
        return "one of its pools is not listed"
    busy = model in draft.taking_prompts
    return guardrails.blind_spot(fleet, model, settings.guardrails, taking_prompts=busy)


def _size_stage(
    part: FleetState,
    model: str,
    outlook: Outlook,
    options: Sequence[PoolOption],
    known: ModelMemory,
    why_not: tuple[str, str],
    settings: PolicySettings,
    draft: _Draft,
) -> None:
    """Size the pools of one stage. ``why_not`` says why nothing may shrink: what cannot be seen, and what is sick."""
    blind, sick = why_not
    if model not in part.demand:
        sized = hold(part, model, options, blind, draft.pools, settings)
    else:
        need, why = needed_by(part, model, outlook, options, known.margin_ratio, settings)
        draft.reasons += why
        sized = size(part.at, need, options, blind or sick, draft.pools, settings)
    draft.desired.update(sized.desired)
    draft.pools.update(sized.memory)
    draft.reasons += sized.reasons


def _held(fleet: FleetState, model: str, course: Course, what: Hold) -> str:
    """Return why a playbook holds something of a model; empty when none does."""
    names = [str(pool.key) for pool in fleet.pools_of(model) if what in course.holding.get(pool.key, ())]
    runs = sorted({course.runs[name].playbook for name in names if name in course.runs})
    return f"{' and '.join(runs) or 'a playbook'} holds it" if names else ""


def _burdened(model: str, draft: _Draft) -> str:
    """Return why a model does not shrink further: a pool of it got into trouble after we had taken replicas away."""
    found = [d for key, d in draft.burdened.items() if key.model == model and d.ours == "size"]
    return f"{found[0].pool} got into trouble right after it had given up replicas" if found else ""


def _hold_growth(pools: Sequence[tuple[PoolState, PoolSettings]], course: Course, draft: _Draft) -> None:
    """Give no further replica to a pool whose rollout fails: it would be of the revision that does."""
    for pool, bounds in pools:
        wanted = draft.desired.get(pool.key, pool.desired)
        least = min(max(pool.desired, bounds.min_replicas), wanted)
        if "growth" in course.holding.get(pool.key, ()) and wanted > least:
            draft.reasons.append(Reason("growth held", str(pool.key), wanted, least, "a playbook holds it"))
            draft.desired[pool.key] = least


def _can_be_set(weights: Mapping[PoolKey, float], stages: Collection[Stage]) -> bool:
    """Return whether every stage has a share to give, and all shares are known: a route is written as a whole."""
    totals = [sum(weight for key, weight in weights.items() if key.role is stage.role) for stage in stages]
    return all(total > 0 for total in totals)


def _managed(
    fleet: FleetState, model: str, settings: PolicySettings, draft: _Draft
) -> tuple[tuple[PoolState, PoolSettings], ...]:
    """Return the pools that are ours, each with its bounds.

    The count of another controller (I11), or of a pool that the platform cannot be asked about (I4), is taken as it is.
    """
    mine = []
    for pool in fleet.pools_of(model):
        known = settings.pools.get(str(pool.key))
        if known is None:
            detail = "not in the settings: left alone"
            draft.reasons.append(Reason("unmanaged", str(pool.key), pool.desired, pool.desired, detail))
        elif pool.owner or pool.untold:
            owned = f"{pool.owner} owns the replica count: left alone"
            silent = f"the platform last told of it {fleet.at - pool.last_told_at:.0f} s ago: left as it was"
            rule, detail = ("untold", silent) if pool.untold else ("other owner", owned)
            draft.reasons.append(Reason(rule, str(pool.key), pool.desired, pool.desired, detail))
            fixed = {"min_replicas": pool.desired, "max_replicas": pool.desired}
            mine.append((pool, known.model_copy(update=fixed)))
        else:
            mine.append((pool, known))
    return tuple(mine)


def _plans(fleet: FleetState, desired: Mapping[PoolKey, int], ours: Collection[str]) -> tuple[ScalingPlan, ...]:
    """Return a plan for each pool whose count changes; replicas that we took out of traffic are the first to go."""
    shrinking = {p.key for p in fleet.pools if desired.get(p.key, p.desired) < p.desired}
    return tuple(
        ScalingPlan(
            pool=pool.key,
            current=pool.desired,
            desired=desired[pool.key],
            version=pool.version,
            retire_first=tuple(
                r.id for r in pool.replicas if r.cordoned and pool.key in shrinking and pool.key.replica(r.id) in ours
            ),
        )
        for pool in fleet.pools
        if pool.key in desired and desired[pool.key] != pool.desired
    )
