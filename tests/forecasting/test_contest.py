"""Is the better forecaster told from the worse one, beyond doubt and not before?"""

from __future__ import annotations

import numpy as np
import pytest

from forecasting.contest import Contest, Standings
from forecasting.last_value import LastValueForecaster
from forecasting.past_peaks import JUDGED
from tests.forecasting.test_judged import Scaled, load, waves


def histories(count: int = 3) -> dict[str, object]:
    return {f"m{seed}": load(waves(2000, seed)) for seed in range(count)}


def standings(contest: Contest | None = None, **contestants: object):  # type: ignore[no-untyped-def]
    loads = histories()
    return (contest or Contest()).standings(loads, dict.fromkeys(loads, 5), contestants)  # type: ignore[arg-type]


def test_losses_are_counted_in_those_of_the_last_value() -> None:
    told = standings(last=LastValueForecaster(0.0), level=LastValueForecaster(), high=Scaled(2.0))
    assert told.of("last").skill == pytest.approx(0.0)
    assert told.of("last").forecasts == 3 * JUDGED
    assert told.of("level").skill > 0.05
    assert told.of("high").skill < -1.0
    assert told.of("high").miss_ratio == 0.0


def test_the_worse_one_is_named_with_its_figures_and_the_better_one_never() -> None:
    told = standings(level=LastValueForecaster(), low=Scaled(0.5))
    assert "more loss than level" in told.clearly_worse("low", "level", 0.1, 36)
    assert "more loss than the last value" in told.clearly_worse("low", None, 0.1, 36)
    assert told.clearly_worse("level", "low", 0.1, 36) == ""
    assert told.clearly_worse("level", None, 0.1, 36) == ""


def test_too_few_forecasts_convict_nobody() -> None:
    told = standings(level=LastValueForecaster(), low=Scaled(0.1))
    assert told.clearly_worse("low", "level", 0.1, 3 * JUDGED + 1) == ""


def test_equals_are_not_told_apart_in_any_of_many_worlds() -> None:
    """A hair worse, and judged over and over: nobody is rolled back for that."""
    convicted = 0
    for seed in range(40):
        loads = {"m": load(waves(1500, 100 + seed))}
        one = Contest().standings(loads, {"m": 5}, {"a": Scaled(1.01), "b": LastValueForecaster()})
        convicted += bool(one.clearly_worse("a", "b", 0.1, 24))
    assert convicted == 0


def bursting_together(seed: int, workloads: int = 10, instants: int = 48) -> Standings:
    """Two who are equals; what goes wrong at an instant goes wrong for all workloads at once."""
    rng = np.random.default_rng(seed)
    losses = {name: np.tile(np.exp(rng.normal(0.0, 0.5, instants)), workloads) for name in ("a", "b")}
    at = np.tile(np.arange(1.0, instants + 1), workloads)
    return Standings(losses, {}, np.ones(instants * workloads), 1800.0 * at, at / instants, 1.0)


def test_workloads_that_burst_together_are_no_more_evidence_than_one() -> None:
    """Taken for independent, ten such workloads convict one in twenty."""
    assert sum(bool(bursting_together(seed).clearly_worse("a", "b", 0.1, 24)) for seed in range(300)) <= 1


def test_one_instant_convicts_nobody_however_many_workloads_there_are() -> None:
    losses = {"a": np.full(200, 9.0), "b": np.ones(200)}
    once = Standings(losses, {}, np.ones(200), np.full(200, 5.0), np.ones(200), 1.0)
    assert once.clearly_worse("a", "b", 0.1, 24) == ""
    spread = Standings(losses, {}, np.ones(200), np.arange(200.0) // 25, np.ones(200), 1.0)
    assert "800% more loss than b" in spread.clearly_worse("a", "b", 0.1, 24)


def test_a_load_that_stands_still_tells_nobody_apart() -> None:
    loads = {"m": load(np.full(500, 7.0))}
    told = Contest().standings(loads, {"m": 5}, {"high": Scaled(9.0)})
    assert told.of("high").forecasts == 0
    assert told.clearly_worse("high", None, 0.0, 1) == ""


def test_no_history_and_no_contestant_are_no_error() -> None:
    assert Contest().standings({}, {}, {"a": Scaled(1.0)}).of("a").forecasts == 0
    loads = {"m": load(waves(8))}
    assert Contest().standings(loads, {"m": 5}, {"a": Scaled(1.0)}).of("a").forecasts == 0


def test_what_was_said_is_asked_for_once() -> None:
    contest, level = Contest(), Scaled(1.0)
    first = standings(contest, level=level)
    asked = level.asked
    again = standings(contest, level=level)
    assert level.asked == asked == 3 * JUDGED
    np.testing.assert_array_equal(first.losses["level"], again.losses["level"])


def test_a_workload_that_nearly_stands_still_does_not_decide_alone() -> None:
    """A thousandth of the noise, and a forecast that is off by a percent: thousands of its usual losses."""
    still = np.full(2000, 7.0) + 1e-6 * np.random.default_rng(0).normal(size=2000)
    loads = {"still": load(still), **{f"m{seed}": load(waves(2000, seed)) for seed in range(2)}}
    told = Contest().standings(loads, dict.fromkeys(loads, 5), {"off": Scaled(1.01)})
    assert told.losses["off"].max() <= 20.0


def test_each_workload_has_a_standing_of_its_own() -> None:
    loads = {"calm": load(waves(2000, 1)), "odd": load(np.tile([5.0, 50.0], 1000))}
    told = Contest().standings(loads, dict.fromkeys(loads, 5), {"level": LastValueForecaster(), "low": Scaled(0.5)})
    assert told.of("level", "calm").skill > 0.05
    assert told.of("low", "calm").skill < -1.0
    both = [told.of("level", name).forecasts for name in loads]
    assert sum(both) == told.of("level").forecasts
    assert told.of("level", "calm").skill != told.of("level", "odd").skill
