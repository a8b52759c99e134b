"""Is a budget said to burn only when it does, over a long window and a short one, and never without requests?"""

from __future__ import annotations

import pytest

from policies.burn import Burn, BurnSettings, burn_of, note_level
from policies.fleet import ServiceLevel
from policies.memory import ModelMemory
from tests.builders import AT, service

TARGET = 0.99
"""A budget of 1 %: a burn rate of 14.4 is 14.4 % of the requests outside the objective."""
WINDOW_S = 300.0


def levels(*spans: tuple[float, float], finished: float = 1000.0) -> tuple[tuple[float, float, float], ...]:
    """Windows up to now: ``(seconds, share within)`` each, the oldest first."""
    shares = [share for seconds, share in spans for _ in range(round(seconds / WINDOW_S))]
    first = AT - WINDOW_S * (len(shares) - 1)
    return tuple((first + place * WINDOW_S, finished, finished * share) for place, share in enumerate(shares))


def spent(*spans: tuple[float, float], target: float = TARGET, **settings: float) -> Burn:
    """How fast it is spent; the newest window is the last of ``spans``."""
    level = service(spans[-1][1], finished=1000.0, window_s=WINDOW_S)
    found = burn_of(levels(*spans), level, target, AT, BurnSettings(**settings))
    assert found is not None
    return found


def burns(*spans: tuple[float, float], target: float = TARGET) -> bool:
    return spent(*spans, target=target).burning


@pytest.mark.parametrize(
    ("spans", "so"),
    [
        ([(21600.0, 1.0)], False),
        ([(18000.0, 1.0), (3600.0, 0.85)], True),  # 15 times for an hour
        ([(18000.0, 1.0), (3600.0, 0.86)], False),  # 14 times
        ([(21300.0, 1.0), (300.0, 0.0)], False),  # a dead five minutes: 8 times over the hour, 1.4 times over six
        ([(18000.0, 1.0), (3300.0, 0.7), (300.0, 1.0)], False),  # over again: the short window is clean
        ([(21600.0, 0.93)], True),  # 7 times for six hours
        ([(19800.0, 0.93), (1800.0, 1.0)], False),
    ],
)
def test_both_windows_of_a_pair_must_burn(spans: list[tuple[float, float]], so: bool) -> None:
    assert burns(*spans) is so


def test_without_requests_or_figures_nothing_burns() -> None:
    bad = levels((21600.0, 0.0))
    assert burn_of(bad, None, TARGET, AT, BurnSettings()) is None
    assert burn_of(bad, ServiceLevel(WINDOW_S, 0.0, 0.0), TARGET, AT, BurnSettings()) is None


def test_what_has_just_begun_does_not_burn_yet_and_is_about_to() -> None:
    """Five dead minutes are 8 times over the hour; fifteen more are 26 times."""
    found = spent((21300.0, 1.0), (300.0, 0.0))
    assert (round(found.newest), round(found.hour, 1), found.burning, found.about_to) == (100, 8.3, False, True)
    assert not spent((21300.0, 1.0), (300.0, 0.0), ahead_s=0.0).about_to


@pytest.mark.parametrize(
    ("spans", "so"),
    [
        ([(20700.0, 1.0), (900.0, 0.7)], True),  # 7.5 times over the hour, 15 with as much again
        ([(20700.0, 1.0), (900.0, 0.75)], False),  # 12.5 with as much again
        ([(18000.0, 1.0), (3300.0, 0.7), (300.0, 1.0)], False),  # over again: the short window is clean
        ([(21600.0, 0.95)], False),  # 5 times for ever
        ([(18000.0, 1.0), (3600.0, 0.85)], True),  # what burns is about to
    ],
)
def test_a_budget_is_about_to_burn_when_going_on_for_a_while_would_make_it(
    spans: list[tuple[float, float]], so: bool
) -> None:
    assert spent(*spans).about_to is so


def test_rates_are_told_with_what_they_would_have_to_be() -> None:
    assert str(spent((18000.0, 1.0), (3600.0, 0.96))) == (
        "4.0 x of 14.4 x over 1 h and 4.0 x over the newest window, 0.7 x of 6 x over 6 h and 4.0 x over half an hour"
    )


def test_a_long_window_is_what_is_known_of_it() -> None:
    """After half an hour of watching, half an hour stands for all."""
    assert burns((1800.0, 0.5))


def test_windows_are_weighed_by_their_requests() -> None:
    busy, quiet = levels((3000.0, 1.0), finished=1000.0), levels((600.0, 0.0), finished=1.0)
    found = burn_of((*busy, *quiet), service(0.0, finished=1.0), TARGET, AT, BurnSettings())
    assert found is not None
    assert (found.burning, found.about_to) == (False, False)


def test_an_objective_without_a_budget_does_not_divide_by_zero() -> None:
    assert burns((3600.0, 0.999), target=1.0)
    assert not burns((3600.0, 1.0), target=1.0)


def test_windows_that_overlap_are_counted_once() -> None:
    known = ModelMemory()
    for tick in range(41):
        known = note_level(known, service(1.0, window_s=WINDOW_S), AT + 15.0 * tick)
    assert [at - AT for at, _, _ in known.levels] == [0.0, 300.0, 600.0]
    assert note_level(known, None, AT + 9e3) is known


def test_windows_older_than_the_longest_are_forgotten() -> None:
    known = ModelMemory()
    for look in range(200):
        known = note_level(known, service(1.0), AT + WINDOW_S * look)
    assert len(known.levels) <= 6 * 3600.0 / WINDOW_S + 1
