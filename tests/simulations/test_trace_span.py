"""How long is the part of a trace that is asked for?"""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.errors import BadInput
from simulations.case import SimulationSettings
from simulations.job import TraceChoice
from simulations.trace_span import Span, span_of


def choice(folder: Path, *arrivals_s: float, **part: float) -> TraceChoice:
    path = folder / "trace.csv"
    rows = "".join(f"{at},100,10\n" for at in arrivals_s)
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    return TraceChoice(path, "trace.csv", **part)  # type: ignore[arg-type]


def test_it_ends_with_the_last_request_of_the_part(tmp_path: Path) -> None:
    settings = SimulationSettings()
    assert span_of(choice(tmp_path, 0.0, 50.0, 90.0), settings) == Span(0.0, 90.0)
    assert span_of(choice(tmp_path, 0.0, 80.0, 90.0, start_s=40.0, duration_s=45.0), settings) == Span(40.0, 80.0)


def test_requests_that_all_come_at_once_last_for_a_tick(tmp_path: Path) -> None:
    assert span_of(choice(tmp_path, 0.0, 0.0), SimulationSettings()) == Span(0.0, 15.0)


def test_a_part_in_which_nothing_arrives_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing arrives from second 200"):
        span_of(choice(tmp_path, 0.0, 90.0, start_s=200.0), SimulationSettings())
