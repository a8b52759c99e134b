"""What becomes of load and pace that were not expected: evidence, a name that others give it, and no act alone?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from forecasting.forecast import LoadForecast
from policies.decisions import Anomaly, Diagnosis
from policies.diagnosis import diagnose, unexplained
from policies.examination import Examination, examine
from policies.fleet import Demand, FleetState, ReplicaState
from policies.memory import PoolMemory
from policies.set_back import follow_clock
from tests.builders import AT, KEY, demand, fleet, pool
from tests.builders_evidence import LEAD, Examiner, alike, of_pool, said_of

STRUCK_S = 1800.0
USUAL_PER_S = 8.0


@dataclass
class Foreseeing(Examiner):
    """One who is shown, at each look, that the load stays what it was until the strike."""

    unlearned: Collection[str] = ()

    def look(self, state: FleetState) -> Examination:
        """Look once."""
        values = USUAL_PER_S * np.array([0.85, 1.0, 1.15])[:, None, None] * np.ones((3, 10, 3))
        forecast = LoadForecast(state.at, state.at, 60.0, np.array([0.1, 0.5, 0.9]), values, values, "test")
        known = {str(p.key): self.memory.pools.get(str(p.key), PoolMemory()) for p in state.pools}
        leads = {str(p.key): LEAD for p in state.pools}
        found = examine(state, self.memory, known, leads, self.settings, {KEY.model: forecast}, self.unlearned)
        pools = {key: replace(memory, listed_at=state.at) for key, memory in found.pools.items()}
        self.memory = replace(
            self.memory, replicas=found.watch.memory, pools=pools, models=found.models, decided_at=state.at
        )
        return found


def loaded(after_s: float, times: float) -> dict[str, Demand]:
    return {KEY.model: demand(USUAL_PER_S * (times if after_s >= STRUCK_S else 1.0))}


def steady(after_s: float) -> list[ReplicaState]:
    return alike(6, after_s)


def test_a_surge_that_was_not_forecast_is_odd_and_has_no_name() -> None:
    found = Foreseeing().over(STRUCK_S + 60.0, steady, demand=lambda s: loaded(s, 3.0))
    assert set(said_of(found)) == {"load forecast"}
    assert [d.name for d in found.diagnoses] == ["unknown"]
    assert "requests/min offered, 3 times what was forecast" in found.diagnoses[0].sentence
    assert found.surging == {KEY.model}


def test_less_load_than_forecast_is_odd_and_no_surge() -> None:
    found = Foreseeing().over(STRUCK_S + 60.0, steady, demand=lambda s: loaded(s, 0.2))
    assert set(said_of(found)) == {"load forecast"}
    assert not found.surging


def test_load_as_forecast_is_no_evidence() -> None:
    found = Foreseeing().over(STRUCK_S + 900.0, steady, demand=lambda s: loaded(s, 1.2))
    assert not found.anomalies


def test_load_that_is_not_observed_is_no_evidence() -> None:
    examiner = Foreseeing()
    examiner.over(STRUCK_S, steady, demand=lambda s: loaded(s, 1.0))
    assert "load forecast" not in said_of(examiner.over(STRUCK_S + 900.0, steady, requests_per_s=None))


def test_a_surge_against_the_forecast_makes_a_retry_storm_before_anything_is_usual() -> None:
    """What is usual is learned for ten minutes; by then a forecast from recorded load has been there for long."""
    examiner = Foreseeing()
    examiner.over(STRUCK_S, steady, demand=lambda s: loaded(s, 1.0))
    models = {
        name: replace(m, usual_from=None, usual_at=None, usual_per_s=None) for name, m in examiner.memory.models.items()
    }
    examiner.memory = replace(examiner.memory, models=models)

    def stormy(after_s: float) -> list[ReplicaState]:
        return alike(6, after_s, aborted_requests_total=2.0 * max(0.0, after_s - STRUCK_S))

    found = examiner.over(STRUCK_S + 120.0, stormy, demand=lambda s: loaded(s, 2.5))
    assert of_pool(found) == {"retry-storm"}
    told = next(d for d in found.diagnoses if d.name == "retry-storm")
    assert "times what was forecast" in told.sentence


def test_the_figures_of_a_surge_are_in_the_sentence_of_an_overload() -> None:
    def crowded(after_s: float) -> list[ReplicaState]:
        queued = 200.0 if after_s >= STRUCK_S else 0.0
        return alike(6, after_s, running_requests=20.0, queued_requests=queued)

    found = Foreseeing().over(STRUCK_S + 120.0, crowded, demand=lambda s: loaded(s, 3.0))
    told = next(d for d in found.diagnoses if d.name == "overload")
    assert set(told.families) == {"queue", "throughput", "load forecast"}
    assert "3 times what was forecast" in told.sentence


def test_a_pool_that_slows_down_as_a_whole_is_odd_and_has_no_name() -> None:
    def slowing(after_s: float) -> list[ReplicaState]:
        return alike(6, after_s, tpot_mean_s=0.03 if after_s < STRUCK_S else 0.1)

    examiner = Foreseeing()
    found = examiner.over(STRUCK_S + 60.0, slowing, demand=lambda s: loaded(s, 1.0))
    assert set(said_of(found)) == {"latency forecast"}
    assert [d.name for d in found.diagnoses] == ["unknown"]
    assert "times what their load explains" in found.diagnoses[0].sentence


def test_pace_is_not_learned_while_something_else_is_wrong() -> None:
    examiner = Foreseeing()
    examiner.over(STRUCK_S, lambda s: alike(6, s, tpot_mean_s=0.03), demand=lambda s: loaded(s, 1.0))
    before = examiner.memory.pools[str(KEY)].latency

    def failing(after_s: float) -> list[ReplicaState]:
        return alike(6, after_s, tpot_mean_s=0.035, unreached_requests_total=100.0 * (after_s - STRUCK_S))

    examiner.over(STRUCK_S + 900.0, failing, demand=lambda s: loaded(s, 1.0))
    after = examiner.memory.pools[str(KEY)].latency
    assert before is not None
    assert after is not None
    assert after.residual.seen <= before.residual.seen + 2  # until it shows


def evidence(family: str, since_s: float) -> Anomaly:
    return Anomaly(family, "", KEY, 1.0, AT - since_s, f"{family} says so")


def test_what_is_odd_does_not_say_since_when_something_is_wrong() -> None:
    both = [evidence("queue", 60.0), evidence("throughput", 60.0), evidence("load forecast", 900.0)]
    assert diagnose(fleet(), both)[0].since_at == AT - 60.0


def test_nothing_is_to_be_done_about_a_pool_that_is_only_odd() -> None:
    found = diagnose(fleet(pool()), [evidence("load forecast", 60.0)])
    assert [d.name for d in found] == ["unknown"]
    assert unexplained(fleet(pool()), found) == []
    overloaded = diagnose(fleet(pool()), [evidence("queue", 60.0), evidence("throughput", 60.0)])
    left: list[Diagnosis] = unexplained(fleet(pool()), [*found, *overloaded])
    assert left == list(overloaded)


def test_instants_move_with_a_clock_that_is_set_back() -> None:
    examiner = Foreseeing()
    examiner.over(STRUCK_S + 60.0, lambda s: alike(6, s, tpot_mean_s=0.03), demand=lambda s: loaded(s, 3.0))
    earlier, _ = follow_clock(examiner.memory, AT + STRUCK_S + 60.0 - 500.0)
    known, moved = examiner.memory.models[KEY.model].load, earlier.models[KEY.model].load
    assert known is not None
    assert moved is not None
    assert known.residual.since_at is not None
    assert moved.residual.since_at == known.residual.since_at - 500.0
    assert [each[0] for each in moved.due] == [each[0] - 500.0 for each in known.due]
    pace, moved_pace = examiner.memory.pools[str(KEY)].latency, earlier.pools[str(KEY)].latency
    assert pace is not None
    assert moved_pace is not None
    assert pace.explained_at is not None
    assert moved_pace.explained_at == pace.explained_at - 500.0


def test_replicas_that_vanish_do_not_speak_for_the_pace_of_those_that_are_left() -> None:
    examiner = Foreseeing()
    examiner.over(STRUCK_S, lambda s: alike(6, s, tpot_mean_s=0.03), demand=lambda s: loaded(s, 1.0))
    found = examiner.over(STRUCK_S + 60.0, lambda s: alike(3, s, tpot_mean_s=0.03), demand=lambda s: loaded(s, 1.0))
    assert not said_of(found)
