"""Is what a watched platform and the lease say of themselves published as of the scrape, in bounded labels?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from controller.cluster_figures import CODES, ClusterFigures, WatchFigures, code_of, no_figures
from controller.cluster_series import ClusterSeries, LeaseFigures
from controller.turn import Turn
from tests.builders_lease import Machine, Store


class NoClaim:
    """A log that nobody else writes."""

    def release(self) -> None:
        pass


def page(figures: Callable[[], ClusterFigures], lease: Callable[[], LeaseFigures | None] = lambda: None) -> list[str]:
    """Return the samples as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(ClusterSeries(figures, lease))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_watches_answers_and_events_are_told_as_they_are_at_the_scrape() -> None:
    age_s = 3.0

    def figures() -> ClusterFigures:
        watches = (WatchFigures("east", "pods", age_s, 2, 1),)
        return ClusterFigures(watches, {("east", "list", "410"): 4}, {"told": 7, "refused": 1, "dropped": 0})

    told = page(figures)
    assert 'foresail_watch_age_seconds{cluster="east",resource="pods"} 3.0' in told
    assert 'foresail_watch_lists_total{cluster="east",resource="pods"} 2.0' in told
    assert 'foresail_watch_failures_total{cluster="east",resource="pods"} 1.0' in told
    assert 'foresail_api_answers_total{cluster="east",code="410",verb="list"} 4.0' in told
    assert 'foresail_events_total{result="refused"} 1.0' in told
    age_s = 95.0
    assert 'foresail_watch_age_seconds{cluster="east",resource="pods"} 95.0' in page(figures)


def test_a_platform_that_is_not_watched_tells_nothing() -> None:
    """No zero stands for what nobody looked at."""
    assert page(no_figures) == []


@pytest.mark.parametrize("status", [100, 226, 302, 418, 499, 599, 999])
def test_whatever_answers_makes_up_no_label(status: int) -> None:
    assert code_of(status) in {*CODES, "2xx", "other"}


def test_the_one_that_leads_and_the_one_that_stands_by_tell_how_they_do_with_the_lease() -> None:
    store, machine = Store(), Machine()
    first, second = machine.candidate(store, "a"), machine.candidate(store, "b")
    turns = [Turn(ours, NoClaim, lambda: machine.at_s) for ours in (first, second)]
    before = turns[1].figures()
    assert before is not None
    assert before.transitions is None
    assert "foresail_lease_transitions" not in " ".join(page(no_figures, turns[1].figures))
    for _ in range(3):
        first.step(), second.step()
        machine.at_s += 2.0
    assert (first.tries["held"], second.tries["watched"]) == (3, 3)
    store.down = True
    first.step()
    store.down, store.before_write = False, lambda: store.write(second._wanted())  # somebody is faster
    first.step()
    assert first.tries == {"held": 3, "watched": 0, "lost": 1, "failed": 1}
    told = page(no_figures, turns[0].figures)
    assert 'foresail_lease_tries_total{result="failed"} 1.0' in told
    assert "foresail_lease_transitions 0.0" in told


def test_without_a_lease_nothing_is_told_of_one() -> None:
    assert Turn(None, NoClaim, lambda: 0.0).figures() is None


def test_a_turn_is_as_old_as_the_last_change_of_who_leads() -> None:
    store, machine = Store(), Machine()
    ours = machine.candidate(store, "a")
    turn = Turn(ours, NoClaim, lambda: machine.at_s)

    def lasted_s(step_at_s: float, told_at_s: float) -> float:
        machine.at_s = step_at_s
        ours.step()
        turn._log(ours)
        machine.at_s = told_at_s
        figures = turn.figures()
        assert figures is not None
        return figures.turn_s

    store.down = True
    assert lasted_s(20.0, 30.0) == 30.0  # stands by since the start
    store.down = False
    assert lasted_s(40.0, 41.0) == 1.0
    assert lasted_s(42.0, 47.0) == 7.0
    store.down = True
    assert lasted_s(60.0, 62.0) == 2.0  # the lease ran out
