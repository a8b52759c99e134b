"""Does a net that is refined keep its shape, learn what has changed, and stay what it was where nothing is gained?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from controller.errors import BadInput
from forecasting.artifact import load_artifact
from forecasting.series import REQUESTS, LoadSeries
from tests.builders_training import DAY_STEPS, Stopwatch, a_wave, of_rates, small_settings
from training.dataset import split_in_time
from training.settings import TrainingSettings
from training.starting_net import StartingNet
from training.trainer import FittedNet, as_forecaster, fit

SETTINGS = small_settings(max_epochs=9)


def drifted(steps: int = 480, seed: int = 5) -> LoadSeries:
    """The load of ``a_wave`` after its users have changed: two peaks a day, and twice the noise."""
    rng = np.random.default_rng(seed)
    turn = 2 * np.pi * np.arange(steps) / DAY_STEPS
    rate = 100.0 + 50.0 * np.sin(turn) + 40.0 * np.sin(2 * turn)
    return of_rates(rate * np.exp(0.06 * rng.standard_normal(steps)))


def fitted(series: LoadSeries, start: StartingNet | None = None, settings: TrainingSettings = SETTINGS) -> FittedNet:
    split = split_in_time(len(series), 0.15, 0.15)
    return fit([series], [split], settings, Stopwatch(), start=start)


@pytest.fixture(scope="module")
def champion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(a_wave(480)).write(tmp_path_factory.mktemp("net") / "a", "wave", "d", "r", 1.0)


def error_on_test_part(forecaster: object, series: LoadSeries) -> float:
    """Mean pinball loss at levels 0.5 and 0.95, five steps ahead, over the newest 15 %."""
    losses = []
    for origin in range(408, 475):
        forecast = forecaster.forecast(series.window(0, origin), 5)  # type: ignore[attr-defined]
        for level in (0.5, 0.95):
            gap = series.values[origin + 4, REQUESTS] - forecast.at_level(level)[4, REQUESTS]
            losses.append(max(level * gap, (level - 1.0) * gap))
    return float(np.mean(losses))


def test_a_refined_net_is_better_on_drifted_load_than_it_was_and_keeps_its_shape(
    champion: Path, tmp_path: Path
) -> None:
    start = StartingNet.read(champion)
    refined = fitted(drifted(), start)
    assert refined.spec == start.spec
    assert len(refined.epochs) <= 3
    assert refined.start == start.name
    before = error_on_test_part(load_artifact(champion), drifted())
    forecaster = as_forecaster(refined, tmp_path / "b", "wave")
    assert error_on_test_part(forecaster, drifted()) < 0.8 * before
    assert forecaster.manifest.card.training.fine_tuned_from == start.name


def test_a_net_refined_on_older_load_still_knows_what_it_learned_before(champion: Path) -> None:
    start = StartingNet.read(champion)
    older = a_wave(480)
    older = LoadSeries(older.start_at - 480 * older.step_s, older.step_s, older.values)
    assert fitted(older).fitted_until < start.fitted_until
    assert fitted(older, start).fitted_until == start.fitted_until


def test_a_net_that_has_nothing_to_gain_stays_what_it_was(champion: Path) -> None:
    start = StartingNet.read(champion)
    # Steps so large that every epoch makes it worse.
    settings = SETTINGS.model_copy(update={"learning_rate": 3.0})
    refined = fitted(a_wave(480), start, settings)
    assert refined.best_epoch == 0
    for name, tensor in refined.net.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), start.weights[name])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden": (16,)}, "has hidden 12, not 16"),
        ({"horizon_s": 360.0}, "has lead_steps 1, 2, 3, 4, 5, not"),
        ({"context_steps": 24}, "has context_steps 16, not 24"),
        ({"model": "lstm_reference"}, "has kind quantile_lstm, not reference_lstm"),
    ],
)
def test_another_shape_than_that_of_the_net_is_refused(champion: Path, change: dict[str, object], said: str) -> None:
    settings = TrainingSettings.model_validate(SETTINGS.model_dump() | change)
    with pytest.raises(BadInput, match=said):
        fitted(a_wave(480), StartingNet.read(champion), settings)


def test_seasons_that_the_new_history_does_not_hold_are_kept(champion: Path) -> None:
    start = StartingNet.read(champion)
    assert start.spec.periods_s
    # 290 steps: six days as the net knows them; the same settings alone would drop a season of 200 steps.
    long_season = small_settings(max_epochs=1, periods_s=(200 * 60.0,))
    assert fitted(a_wave(290), None, long_season).spec.periods_s == ()
    assert fitted(a_wave(290), start, SETTINGS).spec.periods_s == start.spec.periods_s
