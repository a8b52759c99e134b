"""Does the measurement of trainings measure what it says?"""

from __future__ import annotations

import json

import numpy as np
import pytest

import foresail
from forecasting.series import REQUESTS
from training.bench_training import drawn_histories


def test_a_short_measurement_trains_judges_and_registers(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["bench", "training", "--series", "2", "--days", "2", "--max-fit-s", "1", "--json"]
    assert foresail.main(arguments) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["series"], row["days"]) for row in rows] == [(2, 2)]
    for row in rows:
        assert row["total_s"] == pytest.approx(row["fit_s"] + row["judge_s"], abs=0.2)
        assert row["epochs"] >= 1
        assert row["windows"] > 1000
        assert row["rss_mb"] > 100
        assert row["stopped"]


def test_histories_are_seeded_of_their_own_and_as_long_as_asked_for() -> None:
    once, again = drawn_histories(2, 3), drawn_histories(2, 3)
    np.testing.assert_array_equal(once[1].series.values, again[1].series.values)
    first, second = (each.series.values[:, REQUESTS] for each in once)
    assert len(first) == 3 * 1440
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.999
    assert (first >= 0).all()


def test_no_series_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert foresail.main(["bench", "training", "--series", "0"]) == 2
    assert "--series" in capsys.readouterr().err
