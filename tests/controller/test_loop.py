"""Does one tick observe, forecast, decide, act and record, and nothing else?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pytest

from controller.modes import Mode, ModeSettings
from controller.ports import TickPhase, TickRecord
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.last_value import LastValueForecaster
from forecasting.series import LoadSeries
from policies.decide import Foresail
from policies.decisions import CordonReplica, Decision, Page, RestartReplica
from policies.fleet import FleetState, Phase, PoolKey
from policies.healing_memory import ActionMemory, CordonMemory
from policies.lead_time import LeadTimeSettings
from policies.memory import PolicyMemory, PoolMemory
from tests.builders import (
    AT,
    KEY,
    MODEL,
    OTHER,
    Bench,
    a_bench,
    demand,
    desired,
    fleet,
    forecast,
    metrics,
    pool,
    replica,
    settings,
)


@dataclass
class Seer:
    """A forecaster that says what it was told to and keeps what it was asked."""

    requests_per_s: float
    asked: list[tuple[LoadSeries, int]] = field(default_factory=list)
    name: str = "seer 1"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        self.asked.append((history, horizon_steps))
        return forecast(self.requests_per_s, history.end_at, horizon_steps * 60.0)


class Silent:
    name = "silent 1"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        raise CannotForecast("it knows nothing")


@dataclass
class Scripted:
    """A policy that decides what it is given, and keeps what it was shown."""

    decision: Decision
    shown: list[tuple[FleetState, Mapping[str, LoadForecast], PolicyMemory]] = field(default_factory=list)
    name: str = "scripted"

    def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
        self.shown.append((fleet, forecasts, memory))
        return self.decision


EMPTY = Decision(AT, 1, "0", AT + 30.0, (), (), (), (), (), (), PolicyMemory(1))


def bench_of(decision: Decision = EMPTY, **changes: object) -> tuple[Bench, Scripted]:
    policy = Scripted(decision)
    return a_bench(policy=policy, **changes), policy  # type: ignore[arg-type]


def test_a_tick_decides_acts_and_records_as_a_whole() -> None:
    bench = a_bench(pool(3))
    bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(19.0)})  # type: ignore[type-var]
    record = bench.tick()
    assert record.decision is not None
    assert desired(record.decision) == 5
    assert bench.cluster.states[KEY].desired == 5
    assert [(r.act, r.outcome) for r in record.results] == [("scale", "done")]
    assert bench.audit.records == [record]
    assert (record.at, record.error, record.forecast_sources) == (AT, "", {})
    assert record.fleet is not None
    assert record.fleet.pools[0].weight == 1.0


def test_memory_goes_from_tick_to_tick() -> None:
    bench, policy = bench_of(memory=PolicyMemory(41))
    bench.tick()
    bench.tick()
    assert [memory.generation for _, _, memory in policy.shown] == [41, 1]
    assert bench.loop.memory == PolicyMemory(1)


@pytest.mark.parametrize("blind", ["store", "cluster"])
def test_a_world_that_cannot_be_read_is_recorded_and_left_alone(blind: str) -> None:
    bench, policy = bench_of(memory=PolicyMemory(41))
    if blind == "store":
        bench.metrics.answer = None
    else:
        bench.cluster.blind = True
    record = bench.tick()
    assert (record.fleet, record.decision, record.results) == (None, None, ())
    assert record.error
    assert bench.audit.records == [record]
    assert (policy.shown, bench.loop.memory.generation) == ([], 41)


def test_an_unreadable_route_stops_no_scaling() -> None:
    bench = a_bench(pool(3))
    bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(19.0)})  # type: ignore[type-var]
    bench.router.blind = True
    record = bench.tick()
    assert record.fleet is not None
    assert f"weights:{MODEL}" in record.fleet.missing
    assert bench.cluster.states[KEY].desired == 5


def test_one_minute_of_corrupt_load_leaves_no_trace_in_the_forecast() -> None:
    bench = a_bench(pool(4), forecasters=(LastValueForecaster(),))
    for tick in range(90):
        rate = 1e9 if 40 <= tick < 44 else 8.0
        bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(rate)})  # type: ignore[type-var]
        record = bench.tick()
        assert record.fleet is not None
        assert (f"impossible:demand:{MODEL}" in record.fleet.missing) is (rate > 8.0)
        bench.clock.at += 15.0
    assert record.decision is not None
    assert record.forecast_sources == {MODEL: "local-level"}
    assert all(reason.after < 10.0 for reason in record.decision.reasons)


def test_an_error_in_a_policy_is_a_bug_and_not_hidden() -> None:
    class Broken(Scripted):
        def decide(self, fleet: FleetState, forecasts: Mapping[str, LoadForecast], memory: PolicyMemory) -> Decision:
            raise ZeroDivisionError("a bug")

    bench = a_bench(policy=Broken(EMPTY))
    with pytest.raises(ZeroDivisionError):
        bench.tick()


def test_policies_see_demand_averaged_and_not_one_scrape() -> None:
    bench, policy = bench_of()
    for rate in (4.0, 8.0, 12.0):
        bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(rate)})  # type: ignore[type-var]
        bench.tick()
        bench.clock.at += 15.0
    assert [shown.demand[MODEL].requests_per_s for shown, _, _ in policy.shown] == pytest.approx([4.0, 6.0, 8.0])


def test_demand_that_is_gone_is_gone() -> None:
    bench, policy = bench_of()
    bench.tick()
    bench.metrics.answer = replace(bench.metrics.answer, demand={})  # type: ignore[type-var]
    bench.clock.at += 15.0
    bench.tick()
    assert [MODEL in shown.demand for shown, _, _ in policy.shown] == [True, False]


def test_the_forecast_reaches_as_far_as_the_slowest_pool_takes_to_start() -> None:
    seer = Seer(8.0)
    slow, quick = PoolMemory(lead_times_s=(250.0,) * 3), PoolMemory(lead_times_s=(50.0,) * 3)
    memory = PolicyMemory(pools={str(KEY): quick, str(OTHER): slow})
    bench, _ = bench_of(
        forecasters=(seer,),
        memory=memory,
    )
    bench.cluster.states[OTHER] = pool(1, OTHER)
    bench.tick()
    assert [steps for _, steps in seer.asked] == [5]  # 250 s and a tick of 15 s are five minutes


def test_before_any_start_was_seen_the_default_lead_time_is_the_horizon() -> None:
    seer = Seer(8.0)
    bench, _ = bench_of(forecasters=(seer,))
    bench.tick()
    assert [steps for _, steps in seer.asked] == [6]
    assert LeadTimeSettings().default_s + 15.0 > 300.0


def test_a_forecast_is_acted_upon_and_its_source_recorded() -> None:
    bench = a_bench(pool(3), forecasters=(Silent(), Seer(19.0)))
    record = bench.tick()
    assert (bench.cluster.states[KEY].desired, record.forecast_sources) == (5, {MODEL: "flat 1"})


def test_without_an_honest_forecast_the_loop_is_reactive() -> None:
    bench, policy = bench_of(forecasters=(Silent(),))
    record = bench.tick()
    assert (policy.shown[0][1], record.forecast_sources) == ({}, {})


RESTART = replace(
    EMPTY,
    remediations=(RestartReplica("a0", KEY, "F1"), CordonReplica("a1", KEY, "F1"), Page(MODEL, "breaker", "look")),
    memory=PolicyMemory(
        1,
        actions=(
            ActionMemory("a0", "restart", MODEL, str(KEY), AT, AT + 200.0),
            ActionMemory("older", "restart", MODEL, str(KEY), AT - 900.0, AT - 700.0, open=False),
        ),
        cordons={KEY.replica(name): CordonMemory(AT, "F1", f"{name}#0") for name in ("a1", "a2")},
        pages={f"{MODEL} breaker": AT, "other F1": AT},
    ),
)
TWINS = tuple(ActionMemory("a0", "restart", key.model, str(key), AT, AT + 200.0) for key in (KEY, PoolKey("n", "z")))


def test_what_was_done_stays_on_record() -> None:
    bench, _ = bench_of(RESTART)
    bench.tick()
    assert bench.loop.memory == RESTART.memory
    assert len(bench.notifier.pages) == 1


@pytest.mark.parametrize("how", ["observe", "kill switch", "stale"])
def test_what_was_held_is_not_on_record(how: str) -> None:
    modes = ModeSettings(healing=Mode.OBSERVE) if how == "observe" else None
    bench, _ = bench_of(RESTART, modes=modes, killed=how == "kill switch")
    if how == "stale":
        bench.clock.at += 31.0
    record = bench.tick()
    assert {result.outcome for result in record.results} == {"held"}
    assert [act.target for act in bench.loop.memory.actions] == ["older"]
    assert set(bench.loop.memory.cordons) == {KEY.replica("a2")}
    assert set(bench.loop.memory.pages) == {"other F1"}
    assert record.decision == RESTART  # the record says what was decided


def test_what_failed_may_have_happened_and_stays_on_record() -> None:
    bench, _ = bench_of(RESTART)
    bench.cluster.refuses |= {"restart", "cordon"}
    assert [result.outcome for result in bench.tick().results] == ["failed", "failed", "done"]
    assert bench.loop.memory == RESTART.memory


def test_held_acts_on_one_of_two_replicas_with_one_id_leave_the_other_on_record() -> None:
    bench, _ = bench_of(replace(RESTART, memory=replace(RESTART.memory, actions=TWINS)), killed=True)
    bench.tick()
    assert bench.loop.memory.actions == TWINS[1:]


def test_a_failed_write_is_recorded_and_the_next_tick_tries_again() -> None:
    bench = a_bench(pool(3))
    bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(19.0)})  # type: ignore[type-var]
    bench.cluster.refuses.add("scale")
    assert [r.outcome for r in bench.tick().results] == ["failed"]
    bench.cluster.refuses.clear()
    bench.clock.at += 15.0
    assert [r.outcome for r in bench.tick().results] == ["done"]


def test_a_pool_that_changed_under_the_plan_is_left_for_the_next_tick() -> None:
    bench, _ = bench_of()
    policy = Foresail(settings())
    bench = a_bench(pool(3, version=7), policy=policy)
    bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(19.0)})  # type: ignore[type-var]
    pools = bench.cluster.pools

    def stale_read() -> object:
        seen = pools()
        bench.cluster.states[KEY] = replace(bench.cluster.states[KEY], version=8)
        return seen

    bench.cluster.pools = stale_read  # type: ignore[method-assign,assignment]  # somebody writes after our read
    (result,) = bench.tick().results
    assert (result.outcome, "version 7" in result.detail) == ("failed", True)
    assert [r.outcome for r in bench.tick().results] == ["done"]


def test_a_loop_that_starts_from_a_checkpoint_goes_on_as_if_it_had_never_stopped() -> None:
    def ticks(bench: Bench, count: int) -> list[Decision | None]:
        found = []
        for _ in range(count):
            fresh = {
                r.id: metrics(bench.clock.at, steps_total=bench.clock.at) for r in bench.cluster.states[KEY].replicas
            }
            bench.metrics.answer = replace(bench.metrics.answer, replicas=fresh)  # type: ignore[type-var]
            found.append(bench.tick().decision)
            bench.clock.at += 15.0
        return found

    one, other = a_bench(pool(5)), a_bench(pool(5))
    ticks(one, 4)
    ticks(other, 4)
    other.loop.memory = PolicyMemory.from_json(other.loop.memory.to_json())
    assert ticks(one, 12) == ticks(other, 12)


def test_an_empty_cluster_is_a_quiet_tick() -> None:
    bench, _ = bench_of()
    bench.cluster.states.clear()
    assert bench.tick().error == ""


def test_fakes_start_replicas_as_a_platform_would() -> None:
    bench = a_bench(pool(1))
    bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(7.0)})  # type: ignore[type-var]
    bench.tick()
    assert [r.phase for r in bench.cluster.states[KEY].replicas] == [Phase.READY, Phase.PENDING]
    assert fleet(pool([replica("x")])).pools[0].desired == 1


def test_each_phase_of_a_tick_is_told_to_whoever_times_it() -> None:
    bench, seen = a_bench(), []

    @contextmanager
    def timer(phase: TickPhase) -> Iterator[None]:
        seen.append(phase)
        yield

    bench.loop.time_phase = timer
    bench.tick()
    assert seen[:4] == ["observe", "forecast", "decide", "record"]
    assert seen[4:] in (["act"], ["act", "record"])


def test_a_loop_that_replaces_another_goes_on_with_its_memory() -> None:
    old, new = a_bench(), a_bench()
    for _ in range(3):
        old.tick()
    new.loop.follow(old.loop)
    record = new.tick()
    assert record.decision is not None
    assert record.decision.generation == 4


@dataclass
class Watcher:
    """Keeps what it was told."""

    seen: list[TickRecord] = field(default_factory=list)

    def saw(self, record: TickRecord) -> None:
        self.seen.append(record)


def test_a_witness_is_told_of_each_tick_with_what_became_of_it() -> None:
    bench = a_bench(pool(replicas=(replica(),)))
    watcher = bench.loop.witness = Watcher()
    bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(200.0)})
    done = bench.tick()
    bench.cluster.blind = True
    blind = bench.tick()
    assert watcher.seen == [done, blind]
    assert [(result.act, result.outcome) for result in watcher.seen[0].results] == [("scale", "done")]
    assert (watcher.seen[1].decision, watcher.seen[1].error) == (None, blind.error)


def test_a_witness_is_told_what_was_done_before_a_bug_cut_the_acts_short() -> None:
    bench = a_bench(pool(replicas=(replica(),)))
    watcher = bench.loop.witness = Watcher()
    bench.metrics.answer = replace(bench.metrics.answer, demand={MODEL: demand(200.0)})
    bench.cluster.refuses = None  # type: ignore[assignment]  # asked whether it holds a verb, it raises
    with pytest.raises(TypeError):
        bench.tick()
    (told,) = watcher.seen
    assert [(result.act, result.outcome) for result in told.results] == [("scale", "failed")]
    assert told.error.startswith("TypeError")
