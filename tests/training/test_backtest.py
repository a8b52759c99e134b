"""How forecasters are asked about the past, and how their answers are scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from controller.errors import BadInput
from forecasting import accuracy
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.last_value import LastValueForecaster
from forecasting.series import CHANNELS, REQUESTS, LoadSeries
from tests.builders_training import Stopwatch, a_history, a_wave, of_rates, small_settings
from training.backtest import ASKED_LEVELS, Examination, Score, ask, default_leads_s, examination, score
from training.candidates import BASELINE, MODELS, PLAIN, check_nets, models_named, prepare, settings_for
from training.forecasts_file import forecasts_table, write_forecasts
from training.history import History


@dataclass
class Oracle:
    """Knows the whole series, and notes how much of it it was shown."""

    whole: LoadSeries
    shown: list[int] = field(default_factory=list)
    silent_before: int = 0

    @property
    def name(self) -> str:
        return "oracle"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        self.shown.append(len(history))
        if len(history) < self.silent_before:
            raise CannotForecast("it is too early")
        rates = self.whole.values[len(history) : len(history) + horizon_steps]
        values = np.repeat(rates[None], len(levels), axis=0)
        return LoadForecast.ordered(history.end_at, history.step_s, np.array(levels), values, self.name)


def an_exam(**options: object) -> Examination:
    return examination(a_history(480), (60.0, 300.0), **options)  # type: ignore[arg-type]


def scores_of(exam: Examination, forecaster: object) -> list[Score]:
    last_value = ask(exam, BASELINE, LastValueForecaster(0.0), Stopwatch())
    return score(exam, ask(exam, "m", forecaster, Stopwatch()), last_value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("leads", "step_s", "expected"),
    [
        ([5000], 60.0, "more than the 4,096"),
        (list(range(1, 80)), 60.0, "more than the 64"),
        ([2], 0.5, "steps of 0.5 s"),
    ],
)
def test_what_no_net_answers_is_refused_before_one_is_fitted(leads: list[int], step_s: float, expected: str) -> None:
    history = History("wave", a_wave(30_000, step_s), CHANNELS)
    exam = examination(history, [lead * step_s for lead in leads], 5)
    check_nets(exam, ["ets"])
    with pytest.raises(BadInput, match=expected):
        check_nets(exam, ["ets", "lstm_quantile"])


def test_the_first_origin_has_seen_all_but_the_newest_30_percent() -> None:
    exam = an_exam()
    assert exam.origins[0] == round(480 * 0.7)
    assert exam.origins[-1] + exam.lead_steps[-1] == 480
    assert exam.lead_steps == (1, 5)


def test_a_forecaster_is_shown_nothing_after_the_origin() -> None:
    exam = an_exam(max_origins=7)
    oracle = Oracle(exam.history.series)
    ask(exam, "oracle", oracle, Stopwatch())
    assert oracle.shown == exam.origins.tolist()


def test_perfect_foresight_scores_no_loss_and_full_skill() -> None:
    rows = scores_of(an_exam(max_origins=20), Oracle(a_history(480).series))
    for row in rows:
        assert row.pinball == pytest.approx(0.0, abs=1e-9)
        assert row.skill_vs_last_value == pytest.approx(1.0)
        assert row.peak_skill_vs_last_value == pytest.approx(1.0)
        assert row.wape == pytest.approx(0.0, abs=1e-12)


def test_the_last_value_has_no_skill_over_itself() -> None:
    for row in scores_of(an_exam(max_origins=20), LastValueForecaster(0.0)):
        assert row.skill_vs_last_value == 0.0
        assert row.peak_skill_vs_last_value == 0.0


def test_scores_are_those_of_the_accuracy_module_over_the_seven_levels() -> None:
    exam = an_exam(max_origins=30)
    answers = ask(exam, "m", LastValueForecaster(0.0), Stopwatch())
    (row, _) = score(exam, answers, answers)
    actual = exam.history.series.values[exam.origins, REQUESTS]
    kept = [ASKED_LEVELS.index(level) for level in DEFAULT_LEVELS]
    said = answers.values[:, 0]
    assert row.pinball == pytest.approx(accuracy.pinball(actual, said[:, kept], DEFAULT_LEVELS))
    assert row.pinball_normalised == pytest.approx(row.pinball / exam.scale)
    assert row.crps == pytest.approx(accuracy.crps(actual, said[:, kept], DEFAULT_LEVELS))
    assert row.coverage_80 == np.mean(actual <= said[:, ASKED_LEVELS.index(0.8)])
    assert row.coverage_95 == np.mean(actual <= said[:, ASKED_LEVELS.index(0.95)])


def test_where_a_model_steps_back_the_last_value_is_scored_and_its_share_told() -> None:
    exam = an_exam()
    oracle = Oracle(exam.history.series, silent_before=int(exam.origins[len(exam.origins) // 2]))
    rows = scores_of(exam, oracle)
    assert rows[0].answered_ratio == pytest.approx(0.5, abs=0.01)
    assert 0.2 < rows[0].skill_vs_last_value < 0.8
    assert rows[0].origins == len(exam.origins)


def test_targets_in_gaps_are_not_scored() -> None:
    values = np.array(a_wave(480).values)
    values[400:404] = np.nan
    exam = examination(History("gappy", LoadSeries(0.0, 60.0, values), CHANNELS), (60.0,))
    (row,) = scores_of(exam, LastValueForecaster(0.0))
    assert row.origins == len(exam.origins) - 4
    assert np.isfinite(row.pinball)


def test_an_origin_at_which_not_even_the_last_value_is_known_is_left_out_for_all() -> None:
    values = np.array(a_wave(480).values)
    values[400:420] = np.nan
    exam = examination(History("blind", LoadSeries(0.0, 60.0, values), CHANNELS), (60.0,))
    (row,) = scores_of(exam, Oracle(a_history(480).series))
    # Twenty targets in the gap, and the origin at its end, twenty minutes after the last observation.
    assert row.origins == len(exam.origins) - 21


def test_origins_are_thinned_by_strides_that_nest_into_ten_minutes() -> None:
    # 12,000 test rows of one minute: every fifth is asked, and every tenth is among them.
    exam = examination(History("long", of_rates(np.ones(40_000)), CHANNELS), (300.0, 1200.0))
    assert exam.origins[0] == 28_000
    assert set(np.diff(exam.origins).tolist()) == {5}
    week = examination(History("week", of_rates(np.ones(1008), 600.0), CHANNELS), (600.0,))
    assert set(np.diff(week.origins).tolist()) == {1}


def test_a_bound_on_origins_spreads_them_evenly_over_the_test_part() -> None:
    exam = an_exam(max_origins=10)
    assert len(exam.origins) == 10
    assert exam.origins[0] == 336
    assert exam.origins[-1] == 475


def test_a_lead_is_rounded_up_to_whole_steps() -> None:
    assert examination(a_history(480), (61.0, 90.0, 120.0)).lead_steps == (2,)


def test_a_series_without_room_for_the_lead_is_refused() -> None:
    with pytest.raises(ValueError, match="too few to test a lead of 60 steps"):
        examination(a_history(100), (3600.0,))


@pytest.mark.parametrize("step_s", [1.0, 15.0, 60.0, 300.0, 600.0, 3600.0])
def test_usual_leads_are_at_least_a_step(step_s: float) -> None:
    leads = default_leads_s(step_s)
    assert 1 <= len(leads) <= 3
    assert min(leads) >= step_s


def test_unknown_models_are_refused_with_the_known_ones() -> None:
    with pytest.raises(BadInput, match="'lstm_quantil'") as caught:
        models_named("ets,lstm_quantil")
    assert "lstm_quantile" in str(caught.value)
    assert models_named("all") == MODELS
    assert models_named("ets, last_value") == ("ets", "last_value")
    with pytest.raises(BadInput, match="named twice"):
        models_named("ets, last_value,ets")


@pytest.mark.parametrize("model", list(PLAIN))
def test_every_plain_model_can_be_asked(model: str) -> None:
    exam = an_exam(max_origins=3)
    answers = ask(exam, model, prepare(model, exam, small_settings(), Stopwatch()).forecaster, Stopwatch())
    assert np.isfinite(answers.values).all()


def test_a_net_is_fitted_on_what_precedes_the_test_part_and_answers_the_leads_asked() -> None:
    exam = an_exam(max_origins=40)
    ready = prepare("lstm_quantile", exam, small_settings(), Stopwatch(tick_s=0.001))
    answers = ask(exam, "lstm_quantile", ready.forecaster, Stopwatch())
    assert answers.own.all()
    assert ready.fit_s > 0
    last_value = ask(exam, BASELINE, LastValueForecaster(0.0), Stopwatch())
    assert all(row.skill_vs_last_value > 0.2 for row in score(exam, answers, last_value))


def test_what_comes_in_the_test_part_does_not_change_the_net() -> None:
    exam = an_exam(max_origins=3)
    values = np.array(exam.history.series.values)
    values[exam.split.test_from :] *= 3.0
    other = examination(History("wave", LoadSeries(0.0, 60.0, values), CHANNELS), (60.0, 300.0), max_origins=3)
    settings = small_settings(max_epochs=1)
    nets = [prepare("lstm_quantile", each, settings, Stopwatch()).forecaster for each in (exam, other)]
    seen = exam.history.series.window(0, 336)
    first, second = (net.forecast(seen, 5).values for net in nets)
    np.testing.assert_array_equal(first, second)


def test_the_leads_asked_are_among_those_of_the_net() -> None:
    exam = examination(a_history(480), (180.0, 1260.0))
    settings = settings_for("lstm_quantile", exam, small_settings())
    assert {3, 21} <= set(settings.lead_steps)
    assert settings.horizon_s == 1260.0


def test_every_forecast_can_be_written_in_rows_and_units_of_the_source(tmp_path: Path) -> None:
    history = History("counts", a_wave(480), CHANNELS, rows_per_step=2, unit_ratio=30.0)
    exam = examination(history, (60.0, 120.0), max_origins=4)
    answers = ask(exam, "last_value", LastValueForecaster(0.0), Stopwatch())
    write_forecasts(tmp_path / "f.parquet", [forecasts_table(exam, answers)])
    frame = pq.read_table(tmp_path / "f.parquet").to_pandas()
    assert len(frame) == 2 * 4 * 2 * 7
    assert set(frame.kind) == {"point", "max"}
    assert sorted(set(frame.lead)) == [2, 4]
    assert sorted(set(frame.origin)) == [2 * int(o) - 1 for o in exam.origins]
    one = frame[(frame.kind == "max") & (frame.lead == 4) & (frame.level == 0.95)].sort_values("origin")
    np.testing.assert_allclose(one.value, answers.peaks[:, 1, ASKED_LEVELS.index(0.95)] * 30.0)
    assert [p.name for p in tmp_path.iterdir()] == ["f.parquet"]
