"""Is a human told once per episode?"""

from __future__ import annotations

from policies.decisions import Page
from policies.paging import once_per_episode

BREAKER = Page("m", "breaker", "3 of 5")


def test_a_page_goes_out_once_while_it_is_wanted() -> None:
    sent, known = once_per_episode([BREAKER], {}, 0.0, 900.0)
    assert sent == (BREAKER,)
    for tick in range(1, 200):
        sent, known = once_per_episode([Page("m", "breaker", f"{tick} of 500")], known, tick * 15.0, 900.0)
        assert sent == ()


def test_a_short_pause_does_not_begin_a_new_episode() -> None:
    _, known = once_per_episode([BREAKER], {}, 0.0, 900.0)
    _, known = once_per_episode([], known, 890.0, 900.0)
    assert once_per_episode([BREAKER], known, 900.0, 900.0)[0] == ()


def test_after_a_quiet_time_the_next_episode_pages_again() -> None:
    _, known = once_per_episode([BREAKER], {}, 0.0, 900.0)
    assert once_per_episode([BREAKER], known, 901.0, 900.0)[0] == (BREAKER,)


def test_what_is_over_is_forgotten() -> None:
    _, known = once_per_episode([BREAKER], {}, 0.0, 900.0)
    assert once_per_episode([], known, 901.0, 900.0)[1] == {}


def test_another_subject_or_cause_is_another_page() -> None:
    others = [Page("n", "breaker", ""), Page("m", "F1", "")]
    _, known = once_per_episode([BREAKER], {}, 0.0, 900.0)
    assert once_per_episode([BREAKER, *others], known, 15.0, 900.0)[0] == tuple(others)


def test_one_page_wanted_twice_in_a_tick_goes_out_once() -> None:
    assert once_per_episode([BREAKER, BREAKER], {}, 0.0, 900.0)[0] == (BREAKER,)
