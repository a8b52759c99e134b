"""Whether a fit learns, stops, repeats itself and refuses to publish nonsense."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from controller.errors import BadInput
from forecasting.artifact import load_artifact
from forecasting.series import REQUESTS, LoadSeries
from tests.builders_training import Stopwatch, a_wave, small_settings
from training.dataset import split_in_time
from training.settings import TrainingSettings, min_history_steps
from training.trainer import EpochScore, FitFailed, FittedNet, as_forecaster, fit, fit_quantile


def fitted(series: LoadSeries | None = None, **changes: object) -> FittedNet:
    return fit_quantile(a_wave(480) if series is None else series, small_settings(**changes), Stopwatch())


@pytest.fixture(scope="module")
def quantile_net() -> FittedNet:
    return fitted()


def weights_of(one: FittedNet) -> np.ndarray:
    return np.concatenate([tensor.numpy().reshape(-1) for tensor in one.net.state_dict().values()])


def test_a_fit_beats_the_untrained_net_by_far(quantile_net: FittedNet) -> None:
    # Untrained is the last value with a narrow band; the wave moves by up to 40 % of its mean within five steps.
    best = min(epoch.validation_loss for epoch in quantile_net.epochs)
    assert best < 0.5 * quantile_net.untrained_loss


def test_the_weights_kept_are_those_of_the_best_epoch(quantile_net: FittedNet) -> None:
    losses = [epoch.validation_loss for epoch in quantile_net.epochs]
    assert quantile_net.best_epoch == 1 + int(np.argmin(losses))


def test_one_seed_gives_one_net_and_another_seed_another(quantile_net: FittedNet) -> None:
    np.testing.assert_array_equal(weights_of(quantile_net), weights_of(fitted()))
    assert (weights_of(quantile_net) != weights_of(fitted(seed=1))).any()


def test_a_fit_leaves_the_global_generators_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fitted(max_epochs=1)
    assert torch.equal(before, torch.get_rng_state())


def test_a_written_net_forecasts_what_comes_next(quantile_net: FittedNet, tmp_path: Path) -> None:
    forecaster = as_forecaster(quantile_net, tmp_path / "artifact", "wave")
    rate = a_wave(480).values[:, REQUESTS]
    origins = range(408, 475, 3)
    said = [forecaster.forecast(a_wave(480).window(0, o), 5).at_level(0.5)[4, REQUESTS] for o in origins]
    actual = np.array([rate[o + 4] for o in origins])
    last_value = np.array([rate[o - 1] for o in origins])
    assert np.abs(said - actual).mean() < 0.5 * np.abs(last_value - actual).mean()


def test_the_artifact_says_where_it_comes_from(quantile_net: FittedNet, tmp_path: Path) -> None:
    folder = quantile_net.write(tmp_path / "a", "wave", data_digest="d" * 64, code_revision="r1", trained_at=12.0)
    facts = load_artifact(folder).manifest.card.training
    assert (facts.data_digest, facts.code_revision, facts.trained_at, facts.seed) == ("d" * 64, "r1", 12.0, 0)
    assert facts.fitted_until == quantile_net.fitted_until == load_artifact(folder).fitted_until
    assert facts.validation["loss"] == min(epoch.validation_loss for epoch in quantile_net.epochs)


def test_the_reference_stack_learns_and_gets_quantiles_from_its_residuals(tmp_path: Path) -> None:
    one = fitted(model="lstm_reference", max_epochs=3)
    assert min(epoch.validation_loss for epoch in one.epochs) < 0.5 * one.untrained_loss
    forecast = as_forecaster(one, tmp_path / "a", "reference").forecast(a_wave(440), 5)
    spread = forecast.at_level(0.9)[:, REQUESTS] - forecast.at_level(0.1)[:, REQUESTS]
    assert (spread > 0).all()


def test_a_fit_stops_when_validation_no_longer_improves() -> None:
    # Pure noise around a constant: nothing to learn beyond its spread, which takes a few epochs.
    noise = np.random.default_rng(0).lognormal(0.0, 0.2, 480)
    series = LoadSeries(0.0, 60.0, np.stack([100 * noise] * 3, axis=1))
    one = fitted(series, max_epochs=60, patience=2, periods_s=(), learning_rate=2e-2, averaging=0.8)
    assert one.stopped == "no better validation loss for 2 epochs"
    assert one.best_epoch >= len(one.epochs) - 2
    assert len(one.epochs) < 60


def test_the_time_budget_is_kept_and_said() -> None:
    # Every reading of this stopwatch takes a second, an epoch has several readings.
    one = fit_quantile(a_wave(480), small_settings(max_epochs=50, max_fit_s=20.0), Stopwatch(tick_s=1.0))
    assert len(one.epochs) < 50
    assert one.stopped == f"the time budget of 20 s allowed {len(one.epochs)} of 50 epochs"
    assert one.fit_s <= 30.0


def test_the_learning_rate_comes_down_to_its_end_even_within_a_short_budget() -> None:
    one = fit_quantile(a_wave(480), small_settings(max_epochs=50, max_fit_s=30.0), Stopwatch(tick_s=1.0))
    assert one.epochs[-1].learning_rate < 0.2 * max(epoch.learning_rate for epoch in one.epochs)


def test_a_loss_that_is_no_number_ends_the_fit_with_a_remedy() -> None:
    with pytest.raises(FitFailed, match="lower learning_rate"):
        fitted(learning_rate=1e30, gradient_norm=1e30)


def test_every_epoch_is_told() -> None:
    told: list[EpochScore] = []
    one = fit_quantile(a_wave(480), small_settings(max_epochs=2), Stopwatch(), told.append)
    assert tuple(told) == one.epochs


def test_too_little_history_says_how_much_is_needed() -> None:
    settings = small_settings()
    needed = min_history_steps(settings)
    with pytest.raises(BadInput, match=f"give at least {needed} steps"):
        fit_quantile(a_wave(60), settings, Stopwatch())
    fit_quantile(a_wave(needed), settings.model_copy(update={"max_epochs": 1}), Stopwatch())


def test_gaps_are_learned_around() -> None:
    values = np.array(a_wave(480).values)
    values[np.random.default_rng(0).random(480) < 0.1] = np.nan
    one = fitted(LoadSeries(0.0, 60.0, values))
    assert min(epoch.validation_loss for epoch in one.epochs) < 0.7 * one.untrained_loss


def test_one_net_is_fitted_to_several_series() -> None:
    settings: TrainingSettings = small_settings(max_epochs=2)
    series = [a_wave(480), a_wave(480, seed=1)]
    both = fit(series, [split_in_time(480, 0.15, 0.15)] * 2, settings, Stopwatch())
    alone = fit(series[:1], [split_in_time(480, 0.15, 0.15)], settings, Stopwatch())
    assert both.train_windows == 2 * alone.train_windows
