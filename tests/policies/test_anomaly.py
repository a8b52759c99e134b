"""Does evidence arise from what is wrong, and from nothing else?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

import numpy as np
import pytest

from policies.anomaly import AnomalySettings, Watch, watch
from policies.fleet import Phase, PoolKey, ReplicaMetrics, ReplicaState
from policies.lead_time import LeadTime
from policies.memory import ReplicaMemory
from policies.progress import GAUGE_S
from tests.builders import AT, KEY, fleet, metrics, pool, replica

SETTINGS = AnomalySettings()
TWIN = PoolKey("n", "a")
SICK = KEY.replica("sick")
LEAD = {str(KEY): LeadTime(80.0, 100.0, 5, measured=True)}
NAN = math.nan


def look(replicas: Sequence[ReplicaState], at: float = AT, memory: Mapping[str, ReplicaMemory] | None = None) -> Watch:
    return watch(fleet(pool(replicas), at=at), memory or {}, LEAD, SETTINGS)


def families(seen: Watch, name: str = "sick") -> set[str]:
    return {a.family for a in seen.anomalies if a.replica == name}


def watched(*looks: tuple[float, Sequence[ReplicaState]]) -> Watch:
    """Return what the last of several looks found; each is ``(seconds after AT, replicas)``."""
    seen = Watch((), {})
    for seconds, replicas in looks:
        seen = look(replicas, AT + seconds, seen.memory)
    return seen


def at(seconds: float, in_flight: float = 4.0, name: str = "sick", **changes: Any) -> ReplicaState:
    """A replica scraped ``seconds`` after ``AT``."""
    return replica(name, in_flight_requests=in_flight, metrics=metrics(AT + seconds, **changes))


def peers(seconds: float, count: int = 2) -> list[ReplicaState]:
    """Replicas that step on."""
    return [at(seconds, name=f"p{i}", steps_total=1000.0 + seconds) for i in range(count)]


def frozen(until_s: float, *, every_s: float = 15.0, others: int = 2, **changes: Any) -> Watch:
    """Return what is found of a replica whose every scrape says the same."""
    ticks = [tick * every_s for tick in range(int(until_s / every_s) + 1)]
    return watched(*((t, [at(t, **changes), *peers(t, others)]) for t in ticks))


def test_a_frozen_replica_with_work_inside_gathers_three_kinds_of_evidence() -> None:
    assert families(frozen(45.0)) == {"progress", "peers", "gateway"}


def test_a_short_stall_is_no_evidence() -> None:
    assert frozen(30.0).anomalies == ()


def test_evidence_names_the_instant_of_the_last_progress() -> None:
    seen = frozen(90.0)
    assert {a.since_at for a in seen.anomalies} == {AT}
    assert {a.score for a in seen.anomalies} == {(90.0 - GAUGE_S) / SETTINGS.frozen_after_s}


def test_a_wedged_engine_that_says_it_is_idle_is_known_by_its_gateway() -> None:
    assert families(frozen(45.0, running_requests=0.0)) == {"progress", "peers", "gateway"}


def test_an_idle_replica_is_not_frozen() -> None:
    assert frozen(600.0, in_flight=0.0, running_requests=0.0).anomalies == ()


def test_work_that_has_only_just_arrived_is_no_evidence() -> None:
    """It was idle, nobody looked for a minute, and now it has its first request: nothing stood still."""
    idle, busy = at(0.0, 0.0, running_requests=0.0), at(60.0)
    assert watched((0.0, [idle, *peers(0.0)]), (60.0, [busy, *peers(60.0)])).anomalies == ()


def test_a_counter_that_is_told_for_the_first_time_is_no_evidence() -> None:
    untold = at(0.0, steps_total=NAN, output_tokens_total=NAN)
    assert watched((0.0, [untold, *peers(0.0)]), (60.0, [at(60.0), *peers(60.0)])).anomalies == ()


def test_nothing_known_to_be_inside_is_no_evidence() -> None:
    assert frozen(600.0, in_flight=NAN, running_requests=NAN, queued_requests=NAN).anomalies == ()


def test_a_replica_alone_has_no_peers_to_testify() -> None:
    assert families(frozen(45.0, others=0)) == {"progress", "gateway"}


def test_peers_that_stand_still_too_do_not_testify() -> None:
    seen = watched(*((t, [at(t), at(t, name="p0"), at(t, name="p1")]) for t in (0.0, 15.0, 30.0, 45.0)))
    assert families(seen) == {"progress", "gateway"}


@pytest.mark.parametrize("counter", ["steps_total", "output_tokens_total"])
def test_one_counter_that_moves_is_progress(counter: str) -> None:
    looks = [(t, [at(t, **{counter: 1000.0 + t}), *peers(t)]) for t in (0.0, 15.0, 30.0, 45.0, 60.0)]
    assert watched(*looks).anomalies == ()


def test_a_request_that_the_gateway_saw_end_is_progress() -> None:
    in_flight = [9.0, 9.0, 9.0, 8.0, 8.0, 8.0, 7.0, 7.0]
    looks = [(15.0 * i, [at(15.0 * i, count), *peers(15.0 * i)]) for i, count in enumerate(in_flight)]
    assert watched(*looks).anomalies == ()


def test_a_fall_seen_between_two_scrapes_is_not_forgotten() -> None:
    looks = [
        (0.0, [at(0.0, 9.0), *peers(0.0)]),
        (15.0, [at(0.0, 8.0), *peers(15.0)]),  # no new scrape, but a request ended
        (30.0, [at(30.0, 8.0), *peers(30.0)]),
        (45.0, [at(45.0, 8.0), *peers(45.0)]),
    ]
    assert watched(*looks).anomalies == ()


def test_a_gateway_that_stops_reporting_is_no_progress_and_no_evidence() -> None:
    looks = [(t, [at(t, 4.0 if t == 0 else NAN), *peers(t)]) for t in (0.0, 15.0, 30.0, 45.0)]
    assert families(watched(*looks)) == {"progress", "peers"}


def test_counters_that_are_not_given_are_no_evidence() -> None:
    gone = {"steps_total": NAN, "output_tokens_total": NAN}
    looks = [(t, [at(t, **({} if t == 0 else gone)), *peers(t)]) for t in (0.0, 15.0, 30.0, 45.0, 60.0, 75.0, 90.0)]
    seen = watched(*looks)
    assert seen.anomalies == ()
    assert SICK not in seen.fresh  # its newest counters are 90 s old


def test_one_counter_is_enough_to_see_a_hang() -> None:
    assert "progress" in families(frozen(45.0, steps_total=NAN))


def test_stale_metrics_are_no_evidence() -> None:
    looks = [(t, [at(min(t, 45.0)), *peers(t)]) for t in (0.0, 15.0, 30.0, 45.0, 60.0, 90.0, 106.0)]
    seen = watched(*looks)
    assert seen.anomalies == ()
    assert seen.fresh == {KEY.replica("p0"), KEY.replica("p1")}


def test_a_replica_without_metrics_is_not_judged() -> None:
    assert look([replica("sick", metrics=None, in_flight_requests=50.0)]).anomalies == ()


@pytest.mark.parametrize("phase", [Phase.DRAINING, Phase.LOADING, Phase.PENDING])
def test_only_ready_replicas_can_look_hung(phase: Phase) -> None:
    looks = [(t, [replace(at(t), phase=phase, requested_at=AT), *peers(t)]) for t in (0.0, 15.0, 30.0, 45.0, 60.0)]
    assert families(watched(*looks)) == set()


def test_a_restart_in_place_starts_from_nothing() -> None:
    seen = frozen(45.0)
    reborn = replace(at(60.0), restarts=1)
    again = look([reborn, *peers(60.0)], AT + 60.0, seen.memory)
    assert again.anomalies == ()
    assert again.memory[SICK].progress_at == AT + 60.0


def test_memory_of_an_earlier_life_does_not_outlive_it() -> None:
    seen = frozen(45.0)
    silent = replace(at(60.0), restarts=1, metrics=None)
    assert SICK not in look([silent], AT + 60.0, seen.memory).memory


def test_memory_of_a_silent_replica_is_kept() -> None:
    seen = frozen(30.0)
    silent = look([replace(at(45.0), metrics=None)], AT + 45.0, seen.memory)
    assert set(silent.memory) == {SICK, KEY.replica("p0"), KEY.replica("p1")}


def test_memory_of_a_replica_that_is_not_listed_is_kept_for_a_while() -> None:
    seen = frozen(30.0, others=0)
    assert look([], AT + 330.0, seen.memory).memory == seen.memory
    assert look([], AT + 331.0, seen.memory).memory == {}


def test_two_replicas_with_one_id_are_two_replicas() -> None:
    memory: Mapping[str, ReplicaMemory] = {}
    for t in (0.0, 15.0, 30.0, 45.0):
        state = fleet(pool([at(t), *peers(t)]), pool([at(t, steps_total=1000.0 + t)], TWIN), at=AT + t)
        seen = watch(state, memory, {**LEAD, str(TWIN): LEAD[str(KEY)]}, SETTINGS)
        memory = seen.memory
    assert {(a.pool, a.replica) for a in seen.anomalies} == {(KEY, "sick")}
    assert memory[TWIN.replica("sick")].steps_total == 1045.0


def answering(until_s: float, answered: Callable[[float], float], in_flight: float = 4.0) -> Watch:
    """Return what is found of a replica whose counters stand still while the gateway counts its answers."""
    ticks = [15.0 * tick for tick in range(int(until_s / 15.0) + 1)]
    return watched(*((t, [replace(at(t, in_flight), answered_requests_total=answered(t)), *peers(t)]) for t in ticks))


def test_counters_that_stand_still_while_answers_come_are_the_exporters_fault() -> None:
    assert [answering(t, lambda s: s // 15.0).anomalies for t in (45.0, 75.0)] == [(), ()]
    seen = answering(90.0, lambda s: s // 15.0)
    assert families(seen) == {"exporter"}
    assert {a.since_at for a in seen.anomalies} == {AT}


def test_an_exporter_that_stood_still_once_convicts_nobody_when_answers_pause() -> None:
    assert families(answering(300.0, lambda s: min(s, 90.0) // 15.0)) == {"exporter"}


def test_an_exporter_that_moves_again_is_believed_again() -> None:
    looks = []
    for tick in range(14):
        t = 15.0 * tick
        steps, answers = 1000.0 + 5.0 * (tick >= 8), float(min(tick, 9))
        looks.append((t, [replace(at(t, steps_total=steps), answered_requests_total=answers), *peers(t)]))
    assert families(watched(*looks)) == {"progress", "peers", "gateway"}


def test_no_answer_for_three_scrapes_is_the_gateways_evidence() -> None:
    assert families(answering(45.0, lambda _: 7.0)) == {"progress", "peers", "gateway"}


def test_where_answers_are_counted_requests_that_clients_give_up_are_no_progress() -> None:
    falling = [(t, 9.0 - t / 15.0) for t in (0.0, 15.0, 30.0, 45.0)]
    looks = [(t, [replace(at(t, inside), answered_requests_total=7.0), *peers(t)]) for t, inside in falling]
    assert families(watched(*looks)) == {"progress", "peers", "gateway"}


def test_the_gateways_word_is_as_old_as_the_tick_and_not_as_the_scrape() -> None:
    """Scrapes are ten seconds old; the last answer was noticed at 15 s."""
    looks = [
        (t, [replace(at(t - 10.0), answered_requests_total=min(t, 15.0)), *peers(t - 10.0)])
        for t in (0.0, 15.0, 30.0, 45.0, 60.0)
    ]
    assert watched(*looks[:4]).anomalies == ()
    assert families(watched(*looks)) == {"progress", "peers", "gateway"}


def test_scrapes_that_fail_while_answers_come_accuse_nobody() -> None:
    looks = [(t, [replace(at(min(t, 30.0)), answered_requests_total=t), *peers(t)]) for t in (0.0, 15.0, 30.0, 45.0)]
    looks += [(t, [replace(at(30.0), answered_requests_total=t), *peers(t)]) for t in (60.0, 90.0, 120.0)]
    assert families(watched(*looks)) <= {"unscraped", "answering"}  # its metrics are at fault, not the engine


def test_a_counter_that_falls_is_another_engine_and_no_negative_work() -> None:
    seen = frozen(45.0)
    fresh = look([at(60.0, steps_total=3.0, output_tokens_total=5.0), *peers(60.0)], AT + 60.0, seen.memory)
    assert fresh.memory[SICK].output_tokens_per_s is None
    assert families(fresh) == {"counters", "platform"}  # that they fell, and that nothing was restarted


def test_a_single_counter_reset_leaves_its_rate_unknown() -> None:
    first = look([at(0.0)])
    second = look([at(15.0, steps_total=1500.0, prompt_tokens_total=0.0)], AT + 15.0, first.memory)
    assert second.memory[SICK].prompt_tokens_per_s is None
    assert second.memory[SICK].output_tokens_per_s == 0.0


def platform(state: ReplicaState) -> Watch:
    return look([state])


def test_an_exited_engine_is_a_platform_fact() -> None:
    seen = platform(replica("sick", Phase.FAILED, since_at=AT - 30.0, restarts=2))
    assert families(seen) == {"platform"}
    assert seen.anomalies[0].score == pytest.approx(0.5)


def test_an_exit_without_patience_scores_infinitely() -> None:
    at_once = AnomalySettings(failed_after_s=0.0)
    seen = watch(fleet(pool([replica("sick", Phase.FAILED)])), {}, LEAD, at_once)
    assert seen.anomalies[0].score == math.inf


def test_a_start_is_not_overdue_for_having_waited_for_its_place() -> None:
    late = replica("sick", Phase.LOADING, requested_at=AT - 5_000.0, placed_at=AT - 100.0)
    assert "platform" not in families(platform(late))
    assert "platform" in families(platform(replace(late, placed_at=AT - 201.0)))


@pytest.mark.parametrize(
    ("phase", "waited_s", "overdue"),
    [
        (Phase.LOADING, 200.0, False),
        (Phase.LOADING, 201.0, True),
        (Phase.PENDING, 201.0, True),
        (Phase.READY, 9e5, False),
    ],
)
def test_a_start_is_overdue_beyond_twice_the_p90(phase: Phase, waited_s: float, overdue: bool) -> None:
    assert ("platform" in families(platform(replica("sick", phase, requested_at=AT - waited_s)))) is overdue


def crowd(seconds: float, tpot_s: float, busier: float = 1.0, count: int = 5, **changes: Any) -> list[ReplicaState]:
    """One replica among ``count`` peers at 50 ms; it does ``busier`` times their work."""
    work = 100.0 * seconds
    others = [
        at(seconds, name=f"p{i}", tpot_mean_s=0.050 + 0.001 * i, output_tokens_total=work, prompt_tokens_total=work)
        for i in range(count)
    ]
    own: dict[str, Any] = {"output_tokens_total": busier * work, "prompt_tokens_total": work, "tpot_mean_s": tpot_s}
    own["steps_total"] = 1000.0 + seconds
    return [at(seconds, **{**own, **changes}), *others]


def slow(tpot_s: float, scrapes: int = 5, **changes: Any) -> Watch:
    return watched(*((15.0 * i, crowd(15.0 * i, tpot_s, **changes)) for i in range(scrapes)))


def test_a_straggler_stands_out_by_speed_and_its_work_does_not_explain_it() -> None:
    assert families(slow(0.150)) == {"peers", "latency"}


def test_a_straggler_under_which_requests_pile_up_is_still_a_straggler() -> None:
    assert families(slow(0.150, running_requests=40.0)) == {"peers", "latency"}


def test_a_busier_replica_is_just_busy() -> None:
    assert families(slow(0.150, busier=3.0)) == {"peers"}


def test_a_replica_with_longer_prompts_is_just_busy() -> None:
    looks = [(15.0 * i, crowd(15.0 * i, 0.150, prompt_tokens_total=300.0 * 15.0 * i)) for i in range(5)]
    assert families(watched(*looks)) == {"peers"}


def test_where_work_is_not_told_slowness_is_one_kind_of_evidence() -> None:
    assert families(slow(0.150, output_tokens_total=NAN, prompt_tokens_total=NAN)) == {"peers"}


def test_a_slow_scrape_or_two_is_no_evidence() -> None:
    assert slow(0.150, scrapes=3).anomalies == ()


def test_one_scrape_read_many_times_counts_once() -> None:
    looks = [(float(i), crowd(0.0, 0.150)) for i in range(40)]
    assert watched(*looks).anomalies == ()


def test_slow_scrapes_are_forgotten_after_the_look_back() -> None:
    seen = slow(0.150)
    later = seen
    for i in range(5, 15):
        later = look(crowd(15.0 * i, 0.051), AT + 15.0 * i, later.memory)
    assert later.memory[SICK].slow_at == ()


def test_a_little_slower_is_no_evidence_however_tight_the_peers_are() -> None:
    assert slow(0.075).anomalies == ()


def test_too_few_peers_are_no_measure() -> None:
    assert slow(0.150, count=3).anomalies == ()


@pytest.mark.parametrize("tpot_s", [NAN, math.inf])
def test_a_replica_that_tells_no_speed_is_not_compared(tpot_s: float) -> None:
    assert slow(tpot_s).anomalies == ()


def test_all_equally_slow_is_nobodys_fault() -> None:
    looks = [(15.0 * i, [at(15.0 * i, name=f"p{n}", tpot_mean_s=0.5) for n in range(8)]) for i in range(8)]
    assert [a for a in watched(*looks).anomalies if a.family == "peers" and "TPOT" in a.detail] == []


def test_a_gauge_without_counters_says_nothing_new() -> None:
    first = look([at(0.0)])
    untold = look([at(15.0, steps_total=NAN, output_tokens_total=NAN)], AT + 15.0, first.memory)
    assert untold.memory[SICK] == first.memory[SICK]


def test_the_metrics_themselves_are_left_as_they_are() -> None:
    memory: dict[str, ReplicaMemory] = {}
    look(crowd(0.0, 0.1), AT, memory)
    assert memory == {}
    assert isinstance(crowd(0.0, 0.1)[0].metrics, ReplicaMetrics)


def test_who_is_compared_one_by_one_is_a_matter_of_speed_alone() -> None:
    """Every replica's TPOT against the median and spread of all its peers, worked out the long way."""
    rng = np.random.default_rng(0)
    for count in (4, 5, 6, 9, 12):
        for _ in range(20):
            tpots = [
                float(t) for t in 0.03 * rng.choice([1.0, 1.05, 1.59, 1.61, 3.0], count, p=[0.4, 0.2, 0.1, 0.1, 0.2])
            ]
            seen = watched(*((15.0 * look, answering_slowly(tpots, 15.0 * look)) for look in range(5)))
            expected = set()
            for place, own in enumerate(tpots):
                others = tpots[:place] + tpots[place + 1 :]
                middle = median(others)
                spread = max(1.4826 * median(abs(t - middle) for t in others), 0.05 * middle)
                enough = len(others) >= SETTINGS.min_peers
                if enough and own > SETTINGS.slow_ratio * middle and (own - middle) / spread > SETTINGS.slow_z:
                    expected.add(f"r{place}")
            assert {a.replica for a in seen.anomalies if a.family == "peers"} == expected


def answering_slowly(tpots: Sequence[float], seconds: float) -> list[ReplicaState]:
    """Replicas that step on, each with its own TPOT."""
    return [
        at(seconds, name=f"r{place}", steps_total=1000.0 + seconds, tpot_mean_s=tpot)
        for place, tpot in enumerate(tpots)
    ]
