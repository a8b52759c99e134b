"""What must hold for every fleet, every memory and every history of faults (DESIGN's invariants I1 to I17)?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controller.modes import Mode, ModeSettings
from controller.ports import TickRecord
from forecasting.forecast import LoadForecast, Trust
from policies.decide import Foresail, decide
from policies.decisions import CordonReplica, Decision, FailOver, Page, Remediation, RestartReplica, UncordonReplica
from policies.diagnosis import unexplained
from policies.disruption import gone, last_healthy
from policies.fleet import (
    Demand,
    FleetState,
    Phase,
    PoolKey,
    PoolState,
    ReplicaMetrics,
    ReplicaState,
    ServiceLevel,
)
from policies.guardrails import GuardrailSettings, bound, spend_within
from policies.lead_time import lead_time
from policies.memory import PolicyMemory, PoolMemory
from policies.placement import PoolSettings
from policies.settings import PolicySettings
from tests.builders import AT, KEY, MODEL, OTHER, fleet, forecast, metrics, pool, pool_settings, replica
from tests.builders import settings as policy_settings
from tests.builders_world import Engine, World

often = hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
seldom = hypothesis_settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])

STRANGER = PoolKey("n", "z")
KEYS = (KEY, OTHER, PoolKey(MODEL, "c"), STRANGER)

rates = st.floats(0.0, 500.0)
told = st.one_of(st.just(math.nan), st.floats(0.0, 1e4))
instants = st.floats(AT - 20_000.0, AT)


@st.composite
def replica_metrics(draw: st.DrawFn) -> ReplicaMetrics:
    return ReplicaMetrics(
        observed_at=draw(st.one_of(st.just(AT), instants)),
        running_requests=draw(told),
        queued_requests=draw(told),
        kv_cache_ratio=draw(st.one_of(st.just(math.nan), st.floats(0.0, 1.0))),
        steps_total=draw(told),
        prompt_tokens_total=draw(told),
        output_tokens_total=draw(told),
        finished_requests_total=draw(told),
        tpot_mean_s=draw(st.one_of(st.just(math.nan), st.floats(0.0, 2.0))),
    )


@st.composite
def replica_states(draw: st.DrawFn, name: str) -> ReplicaState:
    requested_at = draw(instants)
    return ReplicaState(
        name,
        draw(st.sampled_from((Phase.READY, Phase.READY, Phase.READY, *Phase))),
        requested_at=requested_at,
        since_at=draw(st.floats(requested_at, AT)),
        placed_at=draw(st.one_of(st.just(math.nan), st.floats(requested_at, AT))),
        restarts=draw(st.integers(0, 3)),
        cordoned=draw(st.sampled_from((False, False, False, True))),
        in_flight_requests=draw(told),
        metrics=draw(st.one_of(st.none(), replica_metrics())),
    )


@st.composite
def pool_states(draw: st.DrawFn, key: PoolKey, weight: float) -> PoolState:
    count = draw(st.integers(0, 5))
    return PoolState(
        key,
        tuple(draw(replica_states(f"{key.pool}{i}")) for i in range(count)),
        desired=draw(st.integers(0, 8)),
        gpus_per_replica=draw(st.integers(1, 8)),
        usd_per_replica_hour=draw(st.floats(0.0, 50.0)),
        version=draw(st.integers(0, 9)),
        weight=weight,
        owner=draw(st.sampled_from(("", "", "", "hpa/x"))),
        last_told_at=draw(st.sampled_from((math.nan, math.nan, math.nan, AT - 60.0))),
    )


@st.composite
def fleets(draw: st.DrawFn) -> FleetState:
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=4, unique=True))
    pools = []
    for model in {key.model for key in keys}:
        mine = [key for key in keys if key.model == model]
        shares = [draw(st.floats(0.0, 1.0)) for _ in mine]
        total = sum(shares) or 1.0
        pools += [draw(pool_states(key, share / total)) for key, share in zip(mine, shares, strict=True)]
    models = sorted({key.model for key in keys})
    observed = draw(st.lists(st.sampled_from(models), unique=True))
    demands = {
        m: Demand(rate := draw(rates), rate * draw(st.floats(0, 4e3)), rate * draw(st.floats(0, 900))) for m in observed
    }
    served = {m: ServiceLevel(300.0, 1000.0, draw(st.floats(0.0, 1000.0))) for m in observed}
    queued = {m: draw(st.floats(0.0, 1e3)) for m in draw(st.lists(st.sampled_from(models), unique=True))}
    return FleetState(AT, tuple(pools), demands, served, queued)


@st.composite
def settings_of(draw: st.DrawFn, managed: tuple[PoolKey, ...] = KEYS) -> PolicySettings:
    def one() -> PoolSettings:
        least = draw(st.integers(0, 3))
        return pool_settings(least, draw(st.integers(least, 20)))

    budgets = GuardrailSettings(
        gpu_budget=draw(st.one_of(st.none(), st.integers(0, 60))),
        usd_per_hour_budget=draw(st.one_of(st.none(), st.floats(0.0, 400.0))),
    )
    return PolicySettings(pools={str(key): one() for key in managed}, guardrails=budgets)


forecasts_ahead = st.dictionaries(st.sampled_from((MODEL, "n")), st.builds(forecast, rates, spread=st.floats(0.0, 5.0)))

# any fleet, one decision


@often
@given(fleets(), settings_of(), forecasts_ahead)
def test_a_pool_that_the_platform_cannot_be_asked_about_is_not_acted_on(
    state: FleetState, given_settings: PolicySettings, ahead: Mapping[str, LoadForecast]
) -> None:
    held = replace(state, pools=tuple(replace(p, last_told_at=AT - 600.0) for p in state.pools))
    first = decide(state, ahead, PolicyMemory(), given_settings)
    for memory in (PolicyMemory(), first.memory):
        decision = decide(held, ahead, memory, given_settings)
        assert decision.scaling == ()
        assert [act for act in decision.remediations if not isinstance(act, Page | FailOver)] == []


@often
@given(fleets(), settings_of(), forecasts_ahead)
def test_bounds_and_budgets_hold_whatever_the_fleet_looks_like(
    state: FleetState, given_settings: PolicySettings, ahead: Mapping[str, LoadForecast]
) -> None:
    decision = decide(state, ahead, PolicyMemory(), given_settings)
    pools = {p.key: p for p in state.pools}
    counts = {p.key: p.desired for p in state.pools} | {plan.pool: plan.desired for plan in decision.scaling}
    for plan in decision.scaling:
        bounds = given_settings.pools[str(plan.pool)]
        assert min(bounds.min_replicas, plan.current) <= plan.desired <= bounds.max_replicas
        assert (plan.current, plan.version) == (pools[plan.pool].desired, pools[plan.pool].version)
        assert not pools[plan.pool].owner
        assert not pools[plan.pool].untold
    limits = given_settings.guardrails
    if any(plan.desired > plan.current for plan in decision.scaling):
        if limits.gpu_budget is not None:
            assert sum(n * pools[k].gpus_per_replica for k, n in counts.items()) <= limits.gpu_budget
        if limits.usd_per_hour_budget is not None:
            paid_growth = any(
                plan.desired > plan.current and pools[plan.pool].usd_per_replica_hour > 0 for plan in decision.scaling
            )
            spent = sum(n * pools[k].usd_per_replica_hour for k, n in counts.items())
            assert not paid_growth or spent <= limits.usd_per_hour_budget + 1e-6


@often
@given(fleets(), st.lists(st.sampled_from(KEYS), unique=True), forecasts_ahead)
def test_what_is_not_in_the_settings_is_never_touched(
    state: FleetState, managed: list[PoolKey], ahead: Mapping[str, LoadForecast]
) -> None:
    decision = decide(state, ahead, PolicyMemory(), policy_settings(KEYS[0], *managed))
    ours = {KEYS[0], *managed}
    assert {plan.pool for plan in decision.scaling} <= ours
    assert {r.pool for r in decision.remediations if isinstance(r, CordonReplica | RestartReplica)} <= ours
    now = {p.key: p.weight for p in state.pools}
    for traffic in decision.traffic:
        assert {key: w for key, w in traffic.weights.items() if key not in ours} == {
            key: w for key, w in now.items() if key not in ours and key.model == traffic.model
        }


@often
@given(fleets(), forecasts_ahead)
def test_weights_share_out_one_and_nothing_goes_where_nothing_serves(
    state: FleetState, ahead: Mapping[str, LoadForecast]
) -> None:
    decision = decide(state, ahead, PolicyMemory(), policy_settings(*KEYS))
    for traffic in decision.traffic:
        mine = {p.key: p for p in state.pools_of(traffic.model)}
        assert math.fsum(traffic.weights.values()) == pytest.approx(1.0)
        assert set(traffic.weights) == set(mine)
        serving = {key for key, p in mine.items() if p.serving}
        assert serving
        assert all(weight == 0.0 for key, weight in traffic.weights.items() if key not in serving)
        given_up = any(decision.memory.pools[str(key)].unsound_at is not None for key in mine)
        dead = any(p.weight > 0 and key not in serving for key, p in mine.items())
        if not given_up and not dead and sum(p.weight for p in mine.values()) == pytest.approx(1.0):
            moved = [abs(weight - mine[key].weight) for key, weight in traffic.weights.items()]
            assert max(moved) <= 0.2 + 1e-9


@often
@given(fleets(), settings_of(), forecasts_ahead)
def test_a_decision_depends_on_its_arguments_alone_and_on_no_order_of_filling(
    state: FleetState, given_settings: PolicySettings, ahead: Mapping[str, LoadForecast]
) -> None:
    one = decide(state, ahead, PolicyMemory(), given_settings)
    other = decide(refilled(state), backwards(ahead), PolicyMemory(), refilled_settings(given_settings))
    assert one == other
    assert one.input_digest == other.input_digest


Value = TypeVar("Value")


def backwards(mapping: Mapping[str, Value]) -> dict[str, Value]:
    """Return the same mapping, filled in the opposite order."""
    return dict(list(mapping.items())[::-1])


def refilled(state: FleetState) -> FleetState:
    return replace(
        state,
        demand=backwards(state.demand),
        service=backwards(state.service),
        gateway_queued=backwards(state.gateway_queued),
    )


def refilled_settings(given_settings: PolicySettings) -> PolicySettings:
    return given_settings.model_copy(update={"pools": backwards(given_settings.pools)})


@often
@given(
    st.integers(0, 12),
    st.integers(0, 6),
    st.floats(0.0, 200.0),
    st.floats(1.0, 10.0),
    st.one_of(st.none(), st.floats(0.0, 200.0)),
    st.floats(0.0, 60.0),
)
def test_more_demand_never_means_fewer_replicas(
    first: int, second: int, rate: float, factor: float, ahead: float | None, queued: float
) -> None:
    pools = (pool(first, KEY, weight=0.5), pool(second, OTHER, weight=0.5, usd_per_replica_hour=7.0))
    given_settings = policy_settings(KEY, OTHER, least=0, most=20)
    # The window has agreed on little for long, so that shrinking is free to happen.
    little = PoolMemory(targets=((AT - 500.0, 0), (AT - 60.0, 0)))
    memory = PolicyMemory(pools={str(KEY): little, str(OTHER): little})

    def counts(times: float) -> dict[PoolKey, int]:
        state = fleet(*pools, requests_per_s=rate * times, gateway_queued={MODEL: queued})
        forecasts = {} if ahead is None else {MODEL: forecast(ahead * times)}
        decision = decide(state, forecasts, memory, given_settings)
        return {p.key: p.desired for p in pools} | {plan.pool: plan.desired for plan in decision.scaling}

    less, more = counts(1.0), counts(factor)
    assert all(more[key] >= less[key] for key in less)


@often
@given(
    st.integers(0, 100),
    st.integers(0, 40),
    st.integers(0, 10),
    st.integers(0, 40),
    st.lists(st.integers(0, 40), max_size=5),
)
def test_bounding_is_idempotent_and_in_bounds(count: int, has: int, least: int, room: int, before: list[int]) -> None:
    memory = PoolMemory(desired=tuple((AT - 70.0 + 12.0 * i, n) for i, n in enumerate(before)))
    bounds, state = pool_settings(least, least + room), pool(0, desired=has)
    once, _ = bound(count, state, bounds, memory, AT, GuardrailSettings())
    assert bound(once, state, bounds, memory, AT, GuardrailSettings())[0] == once
    assert least <= once <= least + room


@often
@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(0, 8), st.floats(0.0, 30.0)),
        min_size=1,
        max_size=4,
    ),
    st.one_of(st.none(), st.integers(0, 200)),
    st.one_of(st.none(), st.floats(0.0, 500.0)),
)
def test_spending_is_idempotent_and_takes_back_growth_only(
    sizes: list[tuple[int, int, int, float]], gpus: int | None, usd: float | None
) -> None:
    pools = tuple(
        pool(0, key, desired=has, gpus_per_replica=each, usd_per_replica_hour=price)
        for key, (has, _, each, price) in zip(KEYS, sizes, strict=False)
    )
    wanted = {p.key: want for p, (_, want, _, _) in zip(pools, sizes, strict=True)}
    limits = GuardrailSettings(gpu_budget=gpus, usd_per_hour_budget=usd)
    once, _ = spend_within(wanted, pools, limits)
    assert spend_within(once, pools, limits)[0] == once
    for p in pools:
        assert min(p.desired, wanted[p.key]) <= once[p.key] <= wanted[p.key]


# missing, stale and partial observation (I4)


@dataclass
class Window:
    """What of a healthy fleet is seen at one tick."""

    scraped: list[bool]
    counters: list[bool]
    work: list[bool]
    gateway: bool
    demand: bool


flags = st.lists(st.booleans(), min_size=5, max_size=5)
windows = st.builds(
    Window,
    flags,
    flags,
    flags,
    st.booleans(),
    st.booleans(),
)


@often
@given(
    st.lists(windows, min_size=8, max_size=24), st.lists(st.integers(1, 30), min_size=24, max_size=24), st.booleans()
)
def test_a_healthy_fleet_seen_through_a_bad_window_is_left_alone(
    seen: list[Window], inside: list[int], frozen_store: bool
) -> None:
    """Every engine works on what it has; scrapes, counters, gateway and demand come and go."""
    memory, last, steps = PolicyMemory(), [metrics(AT)] * 5, [1000.0] * 5
    for tick, window in enumerate(seen):
        at = AT + 15.0 * tick
        replicas = []
        for i in range(5):
            steps[i] += 400.0 * (tick > 0 and seen[tick - 1].work[i])
            holds = float(inside[(tick + i) % 24]) if window.work[i] else 0.0
            if window.scraped[i] and not (frozen_store and tick > 4):
                count, running = (steps[i], holds) if window.counters[i] else (math.nan, math.nan)
                last[i] = metrics(at, steps_total=count, output_tokens_total=count, running_requests=running)
            in_flight = holds if window.gateway else math.nan
            replicas.append(replica(f"a{i}", metrics=last[i], in_flight_requests=in_flight))
        halves = (pool(replicas[:3], KEY, weight=0.6), pool(replicas[3:], OTHER, weight=0.4))
        state = fleet(*halves, at=at, requests_per_s=16.0 if window.demand else None)
        decision = decide(state, {}, memory, policy_settings(KEY, OTHER))
        memory = decision.memory
        # Metrics that most replicas lack for a while are told to a human, and that is all.
        told = [r for r in decision.remediations if isinstance(r, Page) and r.cause == "F13"]
        assert [r for r in decision.remediations if not isinstance(r, UncordonReplica) and r not in told] == []
        assert decision.traffic == ()
        coverage = state.coverage_ratio(MODEL, 60.0)
        if not window.demand or coverage < 0.6:
            assert all(plan.desired >= plan.current for plan in decision.scaling)


@often
@given(st.lists(st.sampled_from(("missing", "stale", "nan")), min_size=6, max_size=6), st.floats(0.0, 30.0))
def test_a_fleet_that_cannot_be_seen_never_shrinks(how: list[str], rate: float) -> None:
    nothing = dict.fromkeys(("running_requests", "queued_requests", "steps_total", "output_tokens_total"), math.nan)
    forms = {"missing": None, "stale": metrics(AT - 3600.0), "nan": metrics(AT, **nothing)}
    state = pool([replica(f"a{i}", metrics=forms[form]) for i, form in enumerate(how)])
    little = PoolMemory(targets=((AT - 500.0, 0), (AT - 60.0, 0)))
    decision = decide(fleet(state, requests_per_s=rate), {}, PolicyMemory(pools={str(KEY): little}), policy_settings())
    assert all(plan.desired > plan.current for plan in decision.scaling)
    assert decision.remediations == ()


shares = st.floats(0.0, 1.0)
looks = st.lists(st.tuples(shares, st.integers(0, 60)), min_size=5, max_size=25)


@often
@given(looks, st.integers(1, 6), st.floats(0.0, 0.05), st.integers(0, 2**32 - 1))
def test_errors_alike_on_all_replicas_never_heal(
    history: list[tuple[float, int]], count: int, uneven: float, seed: int
) -> None:
    """Whatever share fails from look to look, and however chance and balancing spread requests among replicas."""
    rng = np.random.default_rng(seed)
    remediations = errors_seen([[(int(rng.binomial(n := rng.poisson(ended * (1.0 + uneven * i)), share)), n)
                                 for i in range(count)] for share, ended in history])  # fmt: skip
    told = [r for r in remediations if isinstance(r, Page) and count == 1]  # who is alone has no peers to clear it
    assert remediations == told


@often
@given(looks, st.lists(st.sampled_from(("gone", "reset", "told")), min_size=25, max_size=25), st.booleans())
def test_counters_that_go_missing_or_begin_anew_never_heal(
    history: list[tuple[float, int]], fates: list[str], gateway: bool
) -> None:
    """Of one replica: the others answer well, so that each error that it is believed to have would count."""
    past = (5000.0, 4000.0)  # most of its life failed, long ago
    memory = PolicyMemory()
    totals = [past, *[(5000.0, 0.0)] * 4]
    for i, ((_, ended), fate) in enumerate(zip(history, fates, strict=False)):
        totals = [(good + ended, bad) for good, bad in totals]
        totals[0] = (0.0, 0.0) if fate == "reset" else totals[0]
        told = [(math.nan, math.nan) if fate == "gone" and not j else pair for j, pair in enumerate(totals)]
        state = counted(told, AT + 15.0 * i, gateway=gateway)
        decision = decide(state, {}, memory, policy_settings())
        memory = decision.memory
        assert decision.remediations == ()


def errors_seen(history: list[list[tuple[int, int]]]) -> list[Remediation]:
    """Return what is done about replicas of which ``(failed, ended)`` requests per look are counted."""
    memory, done = PolicyMemory(), []
    totals = [(0.0, 0.0)] * len(history[0])
    for i, look in enumerate(history):
        totals = [(good + n - bad, all_bad + bad) for (good, all_bad), (bad, n) in zip(totals, look, strict=True)]
        decision = decide(counted(totals, AT + 15.0 * i), {}, memory, policy_settings())
        memory = decision.memory
        done += decision.remediations
    return done


def counted(totals: list[tuple[float, float]], at: float, *, gateway: bool = True) -> FleetState:
    """One pool of idle replicas whose answers, good and failed, are counted by themselves and by a gateway."""
    replicas = [
        replica(
            f"a{i}",
            metrics=metrics(at, running_requests=0.0, finished_requests_total=good, failed_requests_total=bad),
            in_flight_requests=0.0,
            answered_requests_total=good if gateway else math.nan,
            failed_answers_total=bad if gateway else math.nan,
        )
        for i, (good, bad) in enumerate(totals)
    ]
    return fleet(pool(replicas), at=at)


@often
@given(fleets(), settings_of(), forecasts_ahead, st.data())
def test_a_replica_taken_out_of_traffic_never_makes_its_pools_smaller(
    state: FleetState, given_settings: PolicySettings, ahead: Mapping[str, LoadForecast], data: st.DataObject
) -> None:
    pools = [p for p in state.pools if p.serving]
    assume(pools)
    chosen = data.draw(st.sampled_from(pools))
    name = data.draw(st.sampled_from([r.id for r in chosen.serving]))
    fewer = replace(
        state,
        pools=tuple(
            replace(p, replicas=tuple(replace(r, cordoned=r.cordoned or r.id == name) for r in p.replicas))
            if p is chosen
            else p
            for p in state.pools
        ),
    )

    def wanted(seen: FleetState) -> int:
        plans = {plan.pool: plan.desired for plan in decide(seen, ahead, PolicyMemory(), given_settings).scaling}
        return sum(plans.get(p.key, p.desired) for p in seen.pools if p.key.model == chosen.key.model)

    # A pool above its own maximum comes down to it with and without the replica, which is not what is asked here.
    limits = given_settings.pools
    had = sum(min(p.desired, limits[str(p.key)].max_replicas) for p in state.pools_of(chosen.key.model))
    assert wanted(fewer) >= min(wanted(state), had)


@often
@given(fleets(), settings_of(), rates, st.floats(0.0, 5.0))
def test_a_forecast_that_is_a_floor_never_gives_up_what_its_absence_would_keep(
    state: FleetState, given_settings: PolicySettings, rate: float, spread: float
) -> None:
    floor = forecast(rate, spread=spread).trusted(Trust.FLOOR, "it was worse than the last value")

    def needs(ahead: Mapping[str, LoadForecast]) -> dict[PoolKey, int]:
        decision = decide(state, ahead, PolicyMemory(), unlimited)
        plans = {plan.pool: plan.desired for plan in decision.scaling}
        return {pool.key: plans.get(pool.key, pool.desired) for pool in state.pools}

    # A budget is shared: more for one model may well be less for another.
    unlimited = given_settings.model_copy(update={"guardrails": GuardrailSettings()})
    with_floor, without = needs({MODEL: floor}), needs({})
    assert sum(with_floor[p.key] for p in state.pools_of(MODEL)) >= sum(without[p.key] for p in state.pools_of(MODEL))


# whole histories of faults


FAULTS = (
    "hang",
    "crash",
    "crash for good",
    "slow",
    "errors",
    "errors everywhere",
    "unscraped",
    "stuck exporter",
    "recover",
    "store",
    "gateway",
    "answers",
    "listing",
    "demand",
)


@dataclass
class Checked:
    """Foresail, held to its invariants at every decision."""

    given: PolicySettings
    name: str = "foresail"
    seen: list[Decision] = field(default_factory=list)

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        decision = Foresail(self.given).decide(fleet, forecasts, memory)
        through_json = PolicyMemory.from_json(memory.to_json())
        assert Foresail(self.given).decide(refilled(fleet), forecasts, through_json) == decision
        self.seen.append(decision)
        self.check(fleet, decision)
        return decision

    def check(self, fleet: FleetState, decision: Decision) -> None:
        healing = self.given.healing
        replicas = {r.id: (p, r) for p in fleet.pools for r in p.replicas}
        restarts = [r for r in decision.remediations if isinstance(r, RestartReplica)]
        cordons = [r for r in decision.remediations if isinstance(r, CordonReplica)]
        assert len({r.replica for r in restarts}) == len(restarts)
        opened = [act for act in decision.memory.actions if act.open]
        assert len(opened) <= healing.fleet_disruption_budget
        hung = {d.subject for d in decision.diagnoses if d.cause == "F1" and "gateway" in d.families}
        for model in fleet.models:
            assert sum(act.model == model for act in opened) <= healing.disruption_budget  # I2
            mine = [r for p in fleet.pools_of(model) for r in p.replicas]
            of_replicas = [d for d in unexplained(fleet, decision.diagnoses) if d.subject]
            sick = [
                d
                for d in of_replicas
                if d.pool.model == model and d.cause not in ("unknown", "F12", "F13", "F14", "F19")
            ]
            if healing.breaker_open(len(sick), len(mine)):  # I3
                assert model not in {r.pool.model for r in restarts} | {c.pool.model for c in cordons}
                assert all(plan.desired >= plan.current for plan in decision.scaling if plan.pool.model == model)
        for stage in fleet.stages:
            slow = [c for c in cordons if c.pool.stage == stage and c.replica not in hung]
            out = hung | {c.replica for c in cordons}
            left = sum(r.serving and r.id not in out for p in fleet.pools_in(stage) for r in p.replicas)
            least = sum(self.given.pools[str(p.key)].min_replicas for p in fleet.pools_in(stage))
            healthy = last_healthy(fleet, stage, gone(fleet, decision.memory.replicas))
            assert not slow or left >= healing.serving_floor(healthy, least)  # I1
        for restart in restarts:
            state, one = replicas[restart.replica]
            assert one.phase is not Phase.DRAINING
            assert not one.serving or one.id in hung
            if restart.cause == "F2" and one.phase is Phase.READY:
                assert one.failed_answers_total > 0  # nothing is destroyed on the engine's own word
            lead = lead_time(decision.memory.pools[str(state.key)], self.given.lead_time)
            assert not one.starting or fleet.at - one.requested_at >= lead.p90_s  # I8


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, int, float, int]]:
    """Faults with a victim, a load to go with it and ticks until the next."""
    one = st.tuples(
        st.sampled_from(FAULTS), st.integers(0, 9), st.sampled_from((2.0, 12.0, 20.0, 40.0)), st.integers(1, 12)
    )
    return draw(st.lists(one, min_size=3, max_size=8))


def strike(world: World, fault: str, victim: int) -> None:
    match fault:
        case "store":
            world.store_down = not world.store_down
        case "gateway":
            world.gateway = not world.gateway
        case "answers":
            world.counts_answers = not world.counts_answers
        case "listing":
            world.unlisted = not world.unlisted
        case "errors everywhere":
            for engine in world.engines.values():
                engine.error_ratio = 0.7
        case "demand":
            world.demand_hidden = not world.demand_hidden
        case _ if world.engines:
            engines = sorted(world.engines.values(), key=lambda e: e.id)
            strike_one(world, engines[victim % len(engines)], fault)


def strike_one(world: World, engine: Engine, fault: str) -> None:
    match fault:
        case "hang":
            engine.hung = True
        case "crash" | "crash for good":
            world.crash(engine.id, for_good=fault == "crash for good")
        case "slow":
            engine.slowdown = 3.0
        case "errors":
            engine.error_ratio = 0.7
        case "unscraped":
            engine.unscraped = True
        case "stuck exporter":
            engine.exporter_stuck = engine.sample(world.clock.at)
        case "recover":
            engine.hung = engine.unscraped = engine.stays_down = False
            engine.slowdown, engine.exporter_stuck, engine.error_ratio = 1.0, None, 0.0


def well(engine: Engine) -> bool:
    return not engine.hung and engine.slowdown == 1.0 and engine.error_ratio == 0.0


def a_world() -> World:
    world = World(requests_per_s=20.0)
    world.add_pool(KEY, 5, weight=0.6)
    world.add_pool(OTHER, 3, weight=0.4, price=5.0)
    return world


@seldom
@given(histories())
def test_no_history_of_faults_breaks_an_invariant(history: list[tuple[str, int, float, int]]) -> None:
    world = a_world()
    given_settings = policy_settings(KEY, OTHER, least=1, most=12, guardrails=GuardrailSettings(gpu_budget=36))
    control = world.controlled(given_settings, policy=Checked(given_settings))

    def check(_: TickRecord) -> None:
        assert sum(world.shares.values()) == pytest.approx(1.0)
        assert sum(2 * count for count in world.wanted.values()) <= 36
        assert all(1 <= count <= 12 for count in world.wanted.values())

    control.run(60.0, check)
    for fault, victim, load, ticks in history:
        strike(world, fault, victim)
        world.requests_per_s = load
        control.run(15.0 * ticks, check)
    restarted = [name for _, _, name in control.acts("restart")]
    assert len(restarted) == len(set(restarted))


@often
@given(histories())
def test_no_replica_that_works_is_restarted_in_any_history(history: list[tuple[str, int, float, int]]) -> None:
    """Whatever exporters, gateway, store and platform say of it; what has just recovered may not have shown it yet."""
    world = a_world()
    control = world.controlled(policy_settings(KEY, OTHER, least=1, most=12))
    restart, recovered_at = world.restart, dict[str, float]()

    def checked(pool: PoolKey, name: str) -> None:
        engine = world.engines[name]
        sick = not well(engine) or engine.phase is not Phase.READY
        assert sick or world.clock.at - recovered_at.get(name, -math.inf) <= 150.0
        restart(pool, name)

    world.restart = checked  # type: ignore[method-assign]
    control.run(60.0)
    for fault, victim, load, ticks in history:
        before = {name for name, engine in world.engines.items() if well(engine)}
        strike(world, fault, victim)
        for name, engine in world.engines.items():
            if name not in before and well(engine):
                recovered_at[name] = world.clock.at
        world.requests_per_s = load
        control.run(15.0 * ticks)


@seldom
@given(histories(), st.lists(st.sampled_from(Mode), min_size=3, max_size=3), st.integers(0, 40))
def test_modes_and_kill_switch_hold_in_every_history(
    history: list[tuple[str, int, float, int]], modes: list[Mode], killed_after: int
) -> None:
    world = a_world()
    allowed = ModeSettings(scaling=modes[0], traffic=modes[1], healing=modes[2])
    control = world.controlled(modes=allowed, killed=lambda: world.clock.at >= AT + 15.0 * killed_after)
    for fault, victim, load, ticks in history:
        strike(world, fault, victim)
        world.requests_per_s = load
        control.run(15.0 * ticks)
    verbs: dict[str, set[str]] = {
        "scaling": {"scale"},
        "traffic": {"weights"},
        "healing": {"cordon", "uncordon", "restart"},
    }
    for (_, acts), mode in zip(verbs.items(), modes, strict=True):
        assert mode is Mode.AUTO or not control.acts(*acts)
    assert all(when < 15.0 * killed_after for when, _, _ in control.acts())
    for record in control.audit.records:  # I14: every decision says what became of each of its parts
        if record.decision is not None:
            parts = [r for r in record.decision.remediations if type(r).__name__ != "FailOver"]
            planned: list[Any] = [*parts, *record.decision.traffic, *record.decision.scaling]
            assert len(record.results) == len(planned)
