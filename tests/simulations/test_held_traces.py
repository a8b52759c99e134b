"""Is a trace that a process keeps the same as one opened anew?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulations.held_traces import HeldTrace, HeldTraces
from simulations.job import Job, TraceChoice
from simulations.trace import RequestBatch
from tests.builders_simulation import quick_settings
from tests.builders_traces import all_requests

SETTINGS = quick_settings()


@pytest.fixture
def recorded(tmp_path: Path) -> TraceChoice:
    """Five minutes of 600 recorded requests, from the second minute on."""
    path = tmp_path / "requests.csv"
    arrival_s = np.sort(np.random.default_rng(1).uniform(0, 360, 720))
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + "".join(f"{at:.3f},300,20\n" for at in arrival_s))
    return TraceChoice(path, path.name, scale=1.5, start_s=60.0)


@pytest.fixture
def series(tmp_path: Path) -> TraceChoice:
    path = tmp_path / "load.csv"
    path.write_text("t,requests\n0,60\n60,90\n120,60\n")
    return TraceChoice(path, path.name, start_s=60.0)


@pytest.mark.parametrize("kind", ["recorded", "series"])
def test_runs_on_a_held_trace_are_those_on_the_trace(kind: str, request: pytest.FixtureRequest) -> None:
    choice: TraceChoice = request.getfixturevalue(kind)
    job = Job(choice, "hpa", SETTINGS)
    held = HeldTraces()
    plain = job.run()
    for _ in range(2):
        report = job.run(opened=held.open(choice, SETTINGS))
        assert report.scorecard.decisions_digest == plain.scorecard.decisions_digest
        assert report.described == plain.described


def test_a_held_trace_is_read_once(recorded: TraceChoice) -> None:
    held = HeldTraces()
    first = held.open(recorded, SETTINGS)
    assert isinstance(first.trace, HeldTrace)
    whole: RequestBatch = all_requests(first.trace)
    recorded.path.unlink()
    assert all_requests(held.open(recorded, SETTINGS).trace).arrival_s.tolist() == whole.arrival_s.tolist()


def test_what_decides_a_trace_is_told_apart(recorded: TraceChoice) -> None:
    held = HeldTraces()
    first = held.open(recorded, SETTINGS)
    assert held.open(recorded, SETTINGS) is first
    assert held.open(recorded, quick_settings(seed=1)) is not first
    slow = SETTINGS.model_copy(update={"policy": SETTINGS.policy.model_copy(update={"tick_s": 30.0})})
    before = held.open(recorded, slow).before
    assert before is not None
    assert before.step_s == 30.0


def test_a_trace_that_is_too_much_to_hold_is_read_anew(recorded: TraceChoice) -> None:
    held = HeldTraces(most_requests=100)
    first = held.open(recorded, SETTINGS)
    assert not isinstance(first.trace, HeldTrace)
    assert held.open(recorded, SETTINGS) is not first
