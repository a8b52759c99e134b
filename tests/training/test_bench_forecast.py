"""Does the measurement of batched forecasts measure what it says?"""

from __future__ import annotations

import json

import pytest

import foresail
from tests.builders_process import foresail_in_a_process


def test_a_short_measurement_answers_for_every_workload() -> None:
    rows = json.loads(foresail_in_a_process("bench", "forecast", "--workloads", "30", "--workloads", "3", "--json"))
    assert [(row["workloads"], row["forecasts"]) for row in rows] == [(3, 3), (30, 30)]
    for row in rows:
        assert row["predict_s"] > 0
        assert 0 < row["rss_mb"] < 3000
        assert row["history_steps"] >= 1440  # a day of minutes: what the seasons of the net reach back


def test_a_table_is_printed_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert foresail.main(["bench", "forecast", "--workloads", "3"]) == 0
    assert capsys.readouterr().out.split()[:4] == ["workloads", "predict", "s", "us"]


def test_no_workloads_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert foresail.main(["bench", "forecast", "--workloads", "0"]) == 2
    assert "--workloads" in capsys.readouterr().err
