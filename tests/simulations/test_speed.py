"""Does the measurement of the simulator measure what it says?"""

from __future__ import annotations

import json

import pytest

import foresail
from tests.builders_process import foresail_in_a_process


def test_a_short_measurement_tells_rates_that_fit_its_figures() -> None:
    rows = json.loads(foresail_in_a_process("bench", "simulator", "--requests", "20000", "--replicas", "16", "--json"))
    assert {row["policy"] for row in rows} == {"none", "hpa", "foresail"}
    for row in rows:
        assert row["requests"] == pytest.approx(20_000, rel=0.1)
        assert row["requests_per_s"] > 1000
        assert 0 < row["rss_mb"] < 2000
        assert row["wall_s"] > 0


def test_a_size_that_no_run_has_is_told_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert foresail.main(["bench", "simulator", "--replicas", "27"]) == 2
    assert "runs have 16, 64, 256, 1000 replicas" in capsys.readouterr().err
