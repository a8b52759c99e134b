"""Is load that was not forecast told soon, with figures, and nothing told where nothing is known?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forecasting.forecast import LoadForecast, Trust
from policies.load_residual import LoadLook, LoadResidualSettings, look_at_load
from policies.memory import ModelMemory, PolicyMemory
from policies.residual_memory import LoadMemory
from tests.builders import AT

LOOK_S = 15.0
SETTINGS = LoadResidualSettings()
QUIET_S = 1800.0
"""Of ordinary load, before anything happens: long enough to know the forecaster."""

Load = Callable[[float], float]


def forecast(at: float, middle: float, trust: Trust = Trust.FULL) -> LoadForecast:
    """The same for ten minutes, with a tenth more or less at the 0.9 and 0.1 quantile."""
    values = middle * np.array([0.9, 1.0, 1.1])[:, None, None] * np.ones((3, 10, 3))
    return LoadForecast(at, at, 60.0, np.array([0.1, 0.5, 0.9]), values, values, "test", trust)


def noisy(level: float, seed: int = 0) -> Load:
    """Return a load that strays from its level by an eighth of it, the same at each instant."""
    return lambda after_s: level * (1.0 + 0.08 * math.sin(after_s * 1.7 + seed))


def step(level: float, times: float) -> Load:
    """Return a load that is ``times`` as high from ``QUIET_S`` on."""
    before, after = noisy(level), noisy(level * times)
    return lambda after_s: before(after_s) if after_s < QUIET_S else after(after_s)


def looks(
    offered: Load,
    until_s: float,
    says: Callable[[float], LoadForecast | None],
    known: LoadMemory | None = None,
    from_s: float = 0.0,
    *,
    learning: bool = True,
) -> Iterator[tuple[float, LoadMemory, LoadLook | None]]:
    """Yield every look: seconds after ``AT``, what is remembered, and what is odd."""
    memory, after_s = known or LoadMemory(), from_s
    while after_s <= until_s:
        at = AT + after_s
        memory, found = look_at_load(memory, at, offered(after_s), says(at), SETTINGS, learning=learning)
        yield after_s, memory, found
        after_s += LOOK_S


def told(*arguments: object, **more: object) -> list[tuple[float, LoadLook]]:
    return [(s, found) for s, _, found in looks(*arguments, **more) if found and found.stray.told]  # type: ignore[arg-type]


@pytest.mark.parametrize(("times", "above"), [(2.0, True), (1.0 / 3.0, False)])
def test_a_step_is_told_within_a_minute_and_since_when_it_is(times: float, above: bool) -> None:
    found = told(step(10.0, times), QUIET_S + 600.0, lambda at: forecast(at, 10.0))
    first_s, look = found[0]
    assert QUIET_S < first_s <= QUIET_S + 60.0
    assert look.stray.above is above
    assert look.stray.since_at - AT == pytest.approx(QUIET_S, abs=2 * LOOK_S)
    assert look.times == pytest.approx(times, rel=0.15)
    assert len(found) > 30  # as long as it lasts


def test_the_sentence_has_its_figures() -> None:
    found = told(step(10.0, 3.0), QUIET_S + 90.0, lambda at: forecast(at, 10.0))
    text = str(found[-1][1])
    assert "requests/min offered" in text
    assert "times what was forecast, outside since" in text


def test_ordinary_load_is_never_told() -> None:
    assert not told(noisy(10.0), 6 * 3600.0, lambda at: forecast(at, 10.0))


@given(scale=st.floats(1.0, 1e4), times=st.sampled_from([0.3, 1.0, 1.3, 2.0, 5.0]))
@hypothesis_settings(max_examples=25, deadline=None)
def test_what_is_told_does_not_depend_on_the_unit_of_load(scale: float, times: float) -> None:
    def scores(unit: float) -> list[float]:
        seen = looks(step(10.0 * unit, times), QUIET_S + 300.0, lambda at: forecast(at, 10.0 * unit))
        return [found.stray.score if found else 0.0 for _, _, found in seen]

    # Quantiles are remembered with five digits.
    assert scores(scale) == pytest.approx(scores(1.0), rel=1e-2, abs=1e-2)


def test_without_a_forecast_there_is_no_residual() -> None:
    assert not told(step(10.0, 10.0), QUIET_S + 600.0, lambda _: None)


def test_a_forecast_that_nobody_trusts_is_none() -> None:
    assert not told(step(10.0, 10.0), QUIET_S + 600.0, lambda at: forecast(at, 10.0, Trust.NONE))


@given(lost=st.sets(st.integers(0, 60), max_size=60))
@hypothesis_settings(max_examples=20, deadline=None)
def test_looks_at_which_load_is_missing_tell_nothing_and_teach_nothing(lost: set[int]) -> None:
    def patchy(after_s: float) -> float:
        return math.nan if round((after_s - QUIET_S) / LOOK_S) in lost else noisy(10.0)(after_s)

    known = LoadMemory()
    for after_s, memory, found in looks(patchy, QUIET_S + 900.0, lambda at: forecast(at, 10.0)):
        assert found is None
        if math.isnan(patchy(after_s)):
            assert memory.residual.seen == known.residual.seen
            assert memory.residual.spread == known.residual.spread
        known = memory


def test_nothing_is_learned_while_it_strays_and_forecasts_made_meanwhile_do_not_count() -> None:
    """A forecaster that follows the surge within a minute does not end it."""

    def follows(at: float) -> LoadForecast:
        return forecast(at, 10.0 if at - AT < QUIET_S + 60.0 else 30.0)

    seen = list(looks(step(10.0, 3.0), QUIET_S + 1800.0, follows))
    before = next(memory for after_s, memory, _ in seen if after_s >= QUIET_S - LOOK_S)
    while_it_lasts = [(memory, found) for after_s, memory, found in seen if after_s >= QUIET_S + 60.0]
    assert all(found is not None and found.stray.told for _, found in while_it_lasts)
    assert {memory.residual.seen for memory, _ in while_it_lasts} == {before.residual.seen}
    assert {memory.residual.spread for memory, _ in while_it_lasts} == {before.residual.spread}


def test_nothing_is_learned_while_learning_is_held() -> None:
    *_, (_, known, _) = looks(noisy(10.0), QUIET_S, lambda at: forecast(at, 10.0))
    *_, (_, held, found) = looks(
        noisy(10.0), QUIET_S + 1800.0, lambda at: forecast(at, 40.0), known, QUIET_S + LOOK_S, learning=False
    )
    assert found is None
    assert held.residual.seen == known.residual.seen
    assert all(rate < 20.0 for _, *rates in held.due for rate in rates)


def test_what_lasts_for_an_hour_is_usual_from_then_on() -> None:
    def follows(at: float) -> LoadForecast:
        return forecast(at, 10.0 if at - AT < QUIET_S + 60.0 else 30.0)

    found = told(step(10.0, 3.0), QUIET_S + 3 * 3600.0, follows)
    assert found[-1][0] == pytest.approx(QUIET_S + SETTINGS.accept_after_s, abs=300.0)


def test_when_a_surge_is_over_the_load_is_not_below_what_was_forecast_of_it() -> None:
    def surge(after_s: float) -> float:
        return noisy(30.0 if QUIET_S <= after_s < QUIET_S + 900.0 else 10.0)(after_s)

    def follows(at: float) -> LoadForecast:
        return forecast(at, 30.0 if QUIET_S + 60.0 <= at - AT < QUIET_S + 960.0 else 10.0)

    assert all(found.stray.above for _, found in told(surge, QUIET_S + 3600.0, follows))


def test_a_surge_that_comes_again_is_no_news_and_a_larger_one_is() -> None:
    def surges(second: float) -> Load:
        def offered(after_s: float) -> float:
            if QUIET_S <= after_s < QUIET_S + 300.0:
                return noisy(30.0)(after_s)
            if QUIET_S + 1500.0 <= after_s < QUIET_S + 1800.0:
                return noisy(10.0 * second)(after_s)
            return noisy(10.0)(after_s)

        return offered

    def again(second: float) -> bool:
        return any(
            s >= QUIET_S + 1500.0 for s, _ in told(surges(second), QUIET_S + 2400.0, lambda at: forecast(at, 10.0))
        )

    assert not again(2.5)
    assert again(6.0)


def test_a_forecaster_that_is_often_wrong_is_held_to_less() -> None:
    """What one that errs by a half as often as not says of a load half as high again is no sign."""

    def wild(after_s: float) -> float:
        return 10.0 * (1.0 + 0.5 * math.sin(after_s * 1.7))

    def later(after_s: float) -> float:
        return wild(after_s) if after_s < QUIET_S else 17.0

    assert not told(later, QUIET_S + 600.0, lambda at: forecast(at, 10.0))
    assert told(lambda s: noisy(10.0)(s) if s < QUIET_S else 17.0, QUIET_S + 600.0, lambda at: forecast(at, 10.0))


def test_what_is_remembered_of_a_load_is_below_a_kilobyte_and_can_be_read_back() -> None:
    *_, (_, known, _) = looks(step(10.0, 3.0), QUIET_S + 300.0, lambda at: forecast(at, 10.123456789))
    memory = PolicyMemory(models={"m": ModelMemory(load=known)})
    text = memory.to_json()
    assert len(text) - len(PolicyMemory(models={"m": ModelMemory()}).to_json()) < 1000
    assert PolicyMemory.from_json(text) == memory
