"""What is read from files as a load history, and what is taken as a gap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from controller.errors import BadInput
from forecasting.series import CHANNELS, OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS
from simulations.trace_files import GENERATED
from tests.builders_training import of_rates
from training.history import load_history, without_impossible_zeros


def a_series_file(folder: Path, counts: list[float], step_s: float = 60.0, column: str = "requests") -> Path:
    path = folder / "load.parquet"
    at_s = np.arange(len(counts)) * step_s
    pq.write_table(pa.table({"t": at_s, column: np.array(counts, dtype=np.float64)}), path)
    return path


def test_counts_per_step_become_rates_and_know_the_way_back(tmp_path: Path) -> None:
    history = load_history(a_series_file(tmp_path, [60.0, 120.0, 180.0]))
    assert history.name == "load"
    assert history.series.step_s == 60.0
    assert history.series.values[:, REQUESTS].tolist() == [1.0, 2.0, 3.0]
    assert (history.series.values[:, REQUESTS] * history.unit_ratio).tolist() == [60.0, 120.0, 180.0]


def test_a_column_of_rates_stays_in_its_unit(tmp_path: Path) -> None:
    history = load_history(a_series_file(tmp_path, [5.0, 6.0], column="rate"))
    assert history.series.values[:, REQUESTS].tolist() == [5.0, 6.0]
    assert history.unit_ratio == 1.0


def test_tokens_that_were_not_recorded_follow_a_named_shape_and_are_said_to(tmp_path: Path) -> None:
    history = load_history(a_series_file(tmp_path, [60.0, 120.0]), token_shape="balanced")  # noqa: S106
    assert history.observed_channels == (CHANNELS[REQUESTS],)
    assert history.series.values[:, PROMPT_TOKENS].tolist() == [1000.0, 2000.0]
    assert history.series.values[:, OUTPUT_TOKENS].tolist() == [1000.0, 2000.0]
    assert "not recorded" in history.notes[0]
    assert "balanced" in history.notes[0]


def test_rows_left_out_of_a_file_are_gaps(tmp_path: Path) -> None:
    path = tmp_path / "gappy.csv"
    path.write_text("t,requests\n0,60\n60,60\n180,60\n")
    values = load_history(path).series.values
    assert np.isnan(values[2]).all()
    assert np.isfinite(values[[0, 1, 3]]).all()


def test_longer_steps_are_means_and_remember_how_many_rows_they_hold(tmp_path: Path) -> None:
    history = load_history(a_series_file(tmp_path, [60.0, 120.0, 180.0, 240.0]), step_s=120.0)
    assert history.series.values[:, REQUESTS].tolist() == [1.5, 3.5]
    assert history.rows_per_step == 2


def test_shorter_steps_are_drawn_for_training_and_said_to_be(tmp_path: Path) -> None:
    history = load_history(a_series_file(tmp_path, [6000.0] * 30), step_s=15.0, seed=3)
    assert len(history.series) == 120
    # Poisson counts of mean 1500 per step: the mean of 120 is within 1 %.
    assert history.series.values[:, REQUESTS].mean() == pytest.approx(100.0, rel=0.01)
    assert "drawn" in history.notes[-1]


def test_shorter_steps_are_refused_where_they_would_be_scored(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="shorter ones of 15 s are not in it"):
        load_history(a_series_file(tmp_path, [60.0, 60.0]), step_s=15.0, may_draw=False)


def test_a_step_that_is_no_whole_multiple_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not a whole multiple"):
        load_history(a_series_file(tmp_path, [60.0] * 5), step_s=90.0)


def test_requests_are_counted_per_step(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    rows = "".join(f"{second},100,10\n" for second in range(61))
    path.write_text("arrival_s,prompt_tokens,output_tokens\n" + rows)
    history = load_history(path, step_s=20.0)
    np.testing.assert_allclose(history.series.values, [[1.0, 100.0, 10.0]] * 3)
    assert history.observed_channels == CHANNELS


def test_generated_history_is_what_precedes_the_replayed_day() -> None:
    history = load_history(GENERATED, 600.0)
    assert history.series.end_at == 14 * 86_400.0
    assert history.observed_channels == CHANNELS
    assert "generated load, not recorded: the 14 days before" in history.notes[0]


@pytest.mark.parametrize("step_s", [0.0, -15.0, float("nan")])
def test_an_impossible_step_is_refused(tmp_path: Path, step_s: float) -> None:
    with pytest.raises(BadInput, match="a step cannot be"):
        load_history(a_series_file(tmp_path, [60.0, 60.0]), step_s=step_s)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such file"):
        load_history(tmp_path / "absent.parquet")


@pytest.mark.parametrize("endings", [".parquet", ".csv", ".csv.gz"])
def test_a_history_is_named_without_the_endings_of_its_file(tmp_path: Path, endings: str) -> None:
    source = a_series_file(tmp_path, [60.0, 60.0])
    path = tmp_path / f"servegen_10min_7.5d{endings}"
    if endings == ".parquet":
        source.rename(path)
    else:
        import gzip

        text = b"t,requests\n0,60\n60,60\n"
        path.write_bytes(gzip.compress(text) if endings.endswith("gz") else text)
    assert load_history(path).name == "servegen_10min_7.5d"


def test_a_short_silence_amid_heavy_load_is_a_gap() -> None:
    rate = np.full(40, 10.0)
    rate[20:23] = 0.0
    masked = without_impossible_zeros(of_rates(rate))
    assert np.isnan(masked.values[20:23]).all()
    assert np.isfinite(masked.values[:20]).all()
    assert np.isfinite(masked.values[23:]).all()


def test_a_silence_that_quiet_load_may_well_show_stays_zero() -> None:
    rate = np.full(40, 0.05)  # 3 requests per minute: every 20th minute has none
    rate[20] = 0.0
    assert without_impossible_zeros(of_rates(rate)).values[20, REQUESTS] == 0.0


def test_a_silence_that_the_load_fell_into_stays_zero() -> None:
    rate = np.concatenate([np.full(20, 10.0), [0.05] * 6, np.zeros(5), [0.05] * 6, np.full(20, 10.0)])
    assert (without_impossible_zeros(of_rates(rate)).values[26:31, REQUESTS] == 0.0).all()


def test_a_night_of_silence_stays_zero() -> None:
    rate = np.concatenate([np.full(60, 10.0), np.zeros(600), np.full(60, 10.0)])
    assert (without_impossible_zeros(of_rates(rate)).values[60:660, REQUESTS] == 0.0).all()


def test_client_rates_are_a_history_of_their_sum(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    rows = "".join(f"{t},{client},{client},2\n" for client in (1, 2) for t in (0, 600, 1800))
    path.write_text("t,client,rate,cv\n" + rows)
    history = load_history(path)
    assert history.series.step_s == 600
    assert np.array_equal(history.series.values[:, 0], [3, 3, np.nan, 3], equal_nan=True)
    assert load_history(path, model="2").series.values[0, 0] == 2
