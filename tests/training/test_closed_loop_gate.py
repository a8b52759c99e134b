"""A model has to be good twice: in its forecasts, and in what is served and paid with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest

from controller.errors import BadInput
from controller.ports import ModelVersion
from forecasting.forecast import DEFAULT_LEVELS, LoadForecast
from forecasting.forecaster import CannotForecast
from forecasting.last_value import LastValueForecaster
from forecasting.series import CHANNELS, OUTPUT_TOKENS, PROMPT_TOKENS, REQUESTS, LoadSeries
from simulations.case import SimulationSettings
from tests.builders_simulation import quick_settings
from tests.builders_training import DAY_STEPS, Stopwatch, a_history, of_rates
from training.closed_loop import LoopRun, run_in
from training.gate import HeldOut, Rival, judge_rivals
from training.held_out_world import WorldSettings, held_out_world
from training.history import History
from training.verdict import Evidence, GateSettings, Verdict, verdict_of

WORLD = WorldSettings(window_s=1800.0, replicas=8)
SETTINGS = GateSettings(lead_s=(120.0, 300.0), max_origins=30, seeds=1, world=WORLD)


def the_world(**changes: object) -> SimulationSettings:
    return quick_settings(lead_time_s=120.0, **changes)


def light_history(steps: int = 480) -> History:
    """A wave with prompts and outputs that suit the quick engine."""
    series = a_history(steps).series
    requests = series.values[:, REQUESTS]
    return History("wave", LoadSeries(0.0, 60.0, np.stack([requests, 600 * requests, 60 * requests], axis=1)), CHANNELS)


@dataclass(frozen=True)
class Altered:
    """The last level, with something done to what it says."""

    alter: Callable[[np.ndarray, np.ndarray], None]
    name: str = "altered"

    def forecast(
        self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = DEFAULT_LEVELS
    ) -> LoadForecast:
        said = LastValueForecaster().forecast(history, horizon_steps, levels)
        values, peaks = np.array(said.values), np.array(said.peaks)
        self.alter(values, peaks)
        return replace(said, values=values, peaks=peaks, source=self.name)


def unaltered() -> Altered:
    return Altered(_as_it_is)


def _as_it_is(*_: np.ndarray) -> None:
    pass


def with_many_tokens() -> Altered:
    """The same requests, but three times the tokens: nobody asks a backtest for them."""

    def alter(values: np.ndarray, peaks: np.ndarray) -> None:
        for rates in (values, peaks):
            rates[:, :, [PROMPT_TOKENS, OUTPUT_TOKENS]] *= 3.0

    return Altered(alter)


def blind_beyond_the_judged_leads() -> Altered:
    """Hardly anything is to come later than 300 s from now, the longest lead that the backtest judges."""

    def alter(values: np.ndarray, peaks: np.ndarray) -> None:
        values[:, 5:] *= 0.2
        peaks[:, 5:] = peaks[:, 4:5]

    return Altered(alter)


def without_low_levels() -> Altered:
    """Zero at the levels under the median: a poor forecast, but no level that sizes a fleet is another."""

    def alter(values: np.ndarray, peaks: np.ndarray) -> None:
        for rates in (values, peaks):
            rates[: DEFAULT_LEVELS.index(0.5)] = 0.0

    return Altered(alter)


def verdict_on(
    new: Altered, settings: GateSettings = SETTINGS, simulation: SimulationSettings | None = None
) -> Verdict:
    rivals = [
        Rival(ModelVersion("load", number, (), {}), forecaster)
        for number, forecaster in (("2", new), ("1", LastValueForecaster()))
    ]
    return judge_rivals(*rivals, [HeldOut(light_history(), 0.15)], settings, simulation or the_world(), Stopwatch())


@pytest.fixture(scope="module")
def even() -> Verdict:
    """The verdict on two that forecast alike: what both scored there is what verdicts on other runs start from."""
    return verdict_on(unaltered())


def ratios(verdict: Verdict) -> dict[str, float]:
    return {each.measure: each.ratio for each in verdict.comparisons}


def test_good_forecasts_that_cost_too_much_in_service_are_refused() -> None:
    verdict = verdict_on(with_many_tokens())
    assert ratios(verdict)["pinball"] == ratios(verdict)["peak pinball"] == 1.0
    assert ratios(verdict)["GPU hours"] > 1.5
    assert not verdict.passed
    assert "GPU hours" in verdict.reasons[3]
    assert "more than the tolerance" in verdict.reasons[3]


def test_good_forecasts_that_let_requests_wait_in_service_are_refused() -> None:
    verdict = verdict_on(blind_beyond_the_judged_leads(), simulation=quick_settings(lead_time_s=300.0))
    assert ratios(verdict)["pinball"] == 1.0
    assert ratios(verdict)["missed requests"] > 1.0
    assert not verdict.passed
    assert "less by more than the tolerance of 0.5%" in verdict.reasons[2]


def test_poor_forecasts_that_serve_as_well_are_refused() -> None:
    verdict = verdict_on(without_low_levels())
    assert ratios(verdict)["GPU hours"] == ratios(verdict)["missed requests"] == 1.0
    assert ratios(verdict)["pinball"] > 1.2
    assert not verdict.passed
    assert "more than the tolerance of 2%" in verdict.reasons[0]


def test_what_is_no_worse_in_both_passes(even: Verdict) -> None:
    assert even.passed
    assert set(ratios(even).values()) == {1.0}
    assert [run.model for run in even.runs] == ["version 2", "version 1"]


def test_a_model_that_does_not_answer_in_service_is_refused_with_its_reason() -> None:
    class Shy(Altered):
        def forecast(self, history: LoadSeries, horizon_steps: int, levels: Sequence[float] = ()) -> LoadForecast:
            if horizon_steps < 5:  # the backtest asks for five steps
                raise CannotForecast("sees no reason")
            return super().forecast(history, horizon_steps, levels)

    verdict = verdict_on(Shy(_as_it_is, "shy"))
    assert not verdict.passed
    assert verdict.reasons[-1] == "closed loop: it answered at only 0% of the ticks on wave: sees no reason"
    assert verdict.runs[0].answered == 0 < verdict.runs[0].asked


def test_runs_are_paired_and_repeat() -> None:
    once, again = (verdict_on(unaltered(), SETTINGS.model_copy(update={"seeds": 2})) for _ in range(2))
    assert [run.decisions_digest for run in once.runs] == [run.decisions_digest for run in again.runs]
    assert [(run.seed, run.requests) for run in once.runs[:2]] == [(run.seed, run.requests) for run in once.runs[2:]]
    assert once.runs[0].requests != once.runs[1].requests


def a_run(within: int, gpu_hours: float, **changes: object) -> LoopRun:
    run = LoopRun("wave", "version 1", 0, 0.0, 3600.0, 1.0, 1000, within, gpu_hours, 8, 240, 240, "", (), "digest")
    return replace(run, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("within", "gpu_hours", "passes"),
    [
        (990, 100.0, True),
        (986, 100.0, True),  # within the tolerance
        (980, 50.0, False),  # cheap, but it breaks the promise
        (990, 104.0, True),
        (990, 106.0, False),
        (1000, 106.0, False),  # better than promised is no merit
        (990, 90.0, True),
    ],
)
def test_the_objective_comes_before_the_cost(even: Verdict, within: int, gpu_hours: float, passes: bool) -> None:
    score = even.scores[:2]
    new, old = Evidence(score, [a_run(within, gpu_hours)]), Evidence(score, [a_run(990, 100.0)])
    assert verdict_of("2", "1", new, old, 0.99, SETTINGS).passed is passes


@pytest.mark.parametrize(("gpu_hours", "passes"), [(120.0, True), (130.0, False)])
def test_an_objective_kept_better_may_cost_more_up_to_a_bound(even: Verdict, gpu_hours: float, passes: bool) -> None:
    score = even.scores[:2]
    verdict = verdict_of(
        "2", "1", Evidence(score, [a_run(985, gpu_hours)]), Evidence(score, [a_run(900, 100.0)]), 0.99, SETTINGS
    )
    assert verdict.passed is passes
    assert ("for which the objective is kept better" in verdict.reasons[3]) is passes


def test_a_broken_invariant_is_refused(even: Verdict) -> None:
    score = even.scores[:2]
    new = Evidence(score, [a_run(990, 100.0, violations=("I17 at 60 s: 41 replicas",))])
    verdict = verdict_of("2", "1", new, Evidence(score, [a_run(990, 100.0)]), 0.99, SETTINGS)
    assert not verdict.passed
    assert verdict.reasons[-1] == "closed loop: an invariant was broken on wave: I17 at 60 s: 41 replicas"


def test_the_most_restless_hours_are_replayed_on_a_small_fleet_after_what_came_before() -> None:
    rates = np.full(600, 1000.0)
    rates[500:520] = 3000.0  # a flash crowd in the held-out part, and a larger one before it
    rates[100:120] = 9000.0
    values = of_rates(rates).values * [1.0, 0.6, 0.3]
    history = History("flash", LoadSeries(86_400.0, 60.0, values), CHANNELS)
    world = held_out_world(history, 420, the_world(), WORLD)
    assert world.begins_s / 60 <= 500 < (world.begins_s + world.length_s) / 60
    assert world.length_s == WORLD.window_s
    before = world.case.before
    assert before is not None
    assert before.step_s == 15.0
    assert before.end_at == 86_400.0 + world.begins_s
    np.testing.assert_allclose(before.values[-1], values[499] * world.scale, rtol=1e-12)
    needed = world.case.load.values[:, REQUESTS].max() / world.case.pools[0].requests_per_s
    assert 4 <= needed <= 8  # at the usual headroom eight replicas


def test_a_fleet_as_large_as_its_bounds_allow() -> None:
    history, narrow = light_history(), the_world()
    ((name, pool),) = narrow.pools.items()
    narrow = narrow.model_copy(update={"pools": {name: pool.model_copy(update={"max_replicas": 4})}})
    scales = [held_out_world(history, 408, each, WORLD).scale for each in (the_world(), narrow)]
    assert scales[1] == pytest.approx(scales[0] / 2)
    few = held_out_world(history, 408, the_world(), WORLD.model_copy(update={"most_requests": 1000}))
    assert run_in(few, "none", None).requests == pytest.approx(1000, rel=0.2)


def test_gaps_lie_on_a_line_and_what_is_mostly_gap_is_refused() -> None:
    values = np.array(light_history().series.values)
    values[430:434] = np.nan
    gappy = History("gappy", LoadSeries(0.0, 60.0, values), CHANNELS)
    world = held_out_world(gappy, 420, the_world(), WORLD.model_copy(update={"window_s": 3600.0}))
    assert (world.case.load.values[:, REQUESTS] > 0).all()
    values[420:] = np.nan
    with pytest.raises(BadInput, match="hold load and few gaps"):
        held_out_world(History("gone", LoadSeries(0.0, 60.0, values), CHANNELS), 420, the_world(), WORLD)
    with pytest.raises(BadInput, match="too few to replay"):
        held_out_world(light_history(), 478, the_world(), WORLD)


@pytest.mark.parametrize(("step_s", "tick_s"), [(60.0, 15.0), (20.0, 20.0), (5.0, 5.0), (100.0, 100.0 / 7)])
def test_ticks_fit_into_the_steps_of_the_model(step_s: float, tick_s: float) -> None:
    series = light_history().series
    history = History("wave", LoadSeries(0.0, step_s, series.values), CHANNELS)
    world = held_out_world(history, 480 - 2 * DAY_STEPS, the_world(), WORLD)
    assert world.case.policy.tick_s == tick_s
    assert world.case.settings.forecast.step_s == step_s
    assert run_in(world, "none", None).asked > 0
