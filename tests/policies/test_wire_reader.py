"""Does what was written as canonical JSON come back as the value it was?"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import pytest

from forecasting.forecast import LoadForecast
from policies.decisions import Decision
from policies.fleet import FleetState, Phase
from policies.healing_memory import CordonMemory
from policies.memory import PolicyMemory, PoolMemory
from policies.wire import canonical_json
from policies.wire_reader import read_back
from tests.builders import AT, KEY, MODEL, fleet, forecast, metrics, pool, replica, service
from tests.builders_records import decision_of


def written(value: object) -> object:
    return json.loads(canonical_json(value))


def test_a_fleet_comes_back_with_what_was_not_observed() -> None:
    mute = replica("a1", metrics=metrics(queued_requests=math.nan), in_flight_requests=math.nan)
    there = pool([replica("a0"), mute, replica("a2", Phase.LOADING)], weight=math.nan, owner="hpa")
    state = fleet(there, service={MODEL: service(0.9)}, gateway_queued={MODEL: 3.0}, missing=("weights:m",))
    back = read_back(FleetState, written(state))
    assert canonical_json(back) == canonical_json(state)
    assert math.isnan(back.pools[0].weight)
    assert back.pools[0].replicas[2].metrics is None
    assert back.pools[0].replicas[2].phase is Phase.LOADING
    assert back.pools[0].key == KEY
    known = fleet(pool([replica("a0", in_flight_requests=1.0, metrics=None)]))
    assert read_back(FleetState, written(known)) == known


def test_a_memory_and_a_forecast_come_back() -> None:
    memory = PolicyMemory(
        7,
        pools={str(KEY): PoolMemory(targets=((AT, 3),), lead_times_s=(120.0, math.inf), unsound_at=None)},
        cordons={"a0": CordonMemory(AT, "F1", "a0#0", steps_total=None)},
        pages={"m breaker": AT},
    )
    assert read_back(PolicyMemory, written(memory)) == memory
    coming = forecast(8.1, spread=0.3)
    back = read_back(LoadForecast, written(coming))
    assert canonical_json(back) == canonical_json(coming)
    assert back.values.tobytes() == coming.values.tobytes()


@pytest.mark.parametrize("change", [{"at": "noon"}, {"pools": 5}, {"pools": [{}]}, {"missing": [1]}])
def test_what_was_never_written_is_refused(change: dict[str, object]) -> None:
    text = written(replace(fleet(), missing=("x",)))
    assert isinstance(text, dict)
    with pytest.raises(ValueError, match=r".+"):
        read_back(FleetState, {**text, **change})


@dataclass(frozen=True)
class Versioned:
    version: Literal[1, 2]
    counts: tuple[tuple[float, Annotated[int, "not negative"]], ...] = ()


def test_fixed_words_and_annotated_types_come_back() -> None:
    assert read_back(Versioned, {"version": 2, "counts": [[1, 2], [3, 4]]}) == Versioned(2, ((1.0, 2), (3.0, 4)))
    assert read_back(Versioned, {"version": 1, "added later": 5}) == Versioned(1)
    with pytest.raises(ValueError, match="not in tuple"):
        read_back(Versioned, {"version": 3})


def test_a_decision_comes_back_with_each_remedy_as_what_it_was() -> None:
    decision = decision_of(AT, 1, acts=True)
    assert len({type(remedy) for remedy in decision.remediations}) > 2
    assert read_back(Decision, written(decision)) == decision
    stranger = {**written(decision), "remediations": [{"type": "Reboot"}]}  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="Reboot"):
        read_back(Decision, stranger)
