"""Does at most one candidate act at any moment, and does another one soon when it does not?"""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.leadership import MOST_DURATION_S, Lease, LeaseSettings
from tests.builders_lease import SETTINGS, Machine, Store


def test_the_first_one_leads_and_the_second_one_waits() -> None:
    store, machine = Store(), Machine()
    one, two = machine.candidate(store, "one"), machine.candidate(store, "two")
    assert one.why_not() == "nobody leads yet"
    assert (one.step(), two.step()) == (True, False)
    assert two.why_not() == "one leads"
    for _ in range(30):
        machine.at_s += SETTINGS.retry_s
        assert (one.step(), two.step()) == (True, False)
    assert store.lease is not None
    assert (store.lease.holder, store.lease.transitions) == ("one", 0)
    assert store.lease.renewed_at - store.lease.acquired_at == 60.0


def test_a_standby_takes_over_within_twenty_seconds_of_a_death() -> None:
    store, machine = Store(), Machine()
    one, two = machine.candidate(store, "one"), machine.candidate(store, "two")
    one.step()
    for _ in range(3):
        machine.at_s += SETTINGS.retry_s
        assert (one.step(), two.step()) == (True, False)
    died_s = machine.at_s
    while not two.step():
        machine.at_s += SETTINGS.retry_s
        assert machine.at_s - died_s <= 20.0
    assert store.lease is not None
    assert (store.lease.holder, store.lease.transitions) == ("two", 1)
    assert one.step() is False
    assert one.why_not() == "two leads"


def test_whoever_resigns_is_followed_at_once() -> None:
    store, machine = Store(), Machine()
    one, two = machine.candidate(store, "one"), machine.candidate(store, "two")
    one.step()
    two.step()
    one.resign()
    assert not one.leads
    assert two.step()
    assert one.step() is False  # for good


def test_who_never_led_takes_nothing_away_by_resigning() -> None:
    store, machine = Store(), Machine()
    one, two = machine.candidate(store, "one"), machine.candidate(store, "two")
    one.step()
    two.step()
    two.resign()
    machine.at_s += 1.0
    assert one.step()


def test_who_cannot_renew_stops_before_anybody_else_begins() -> None:
    store, machine = Store(), Machine()
    one = machine.candidate(store, "one")
    one.step()
    store.down = True
    machine.at_s = SETTINGS.renew_within_s - 0.1
    assert one.step()
    assert "does not answer" in one.trouble
    assert one.why_not(needs_s=5.0) == "the lease holds for 0.1 s more, and the write may take 5 s"
    machine.at_s = SETTINGS.renew_within_s
    assert one.why_not() == "the lease was not renewed in time"
    store.down = False
    assert one.step()  # nobody took it meanwhile
    assert one.trouble == ""


def test_a_renewal_whose_answer_was_lost_counts_from_the_next_one_on() -> None:
    store, machine = Store(), Machine()
    one = machine.candidate(store, "one")
    store.mute = True
    assert not one.step()
    store.mute = False
    machine.at_s += SETTINGS.retry_s
    assert one.step()


def test_a_write_that_takes_long_holds_from_when_it_was_sent() -> None:
    store, machine = Store(), Machine()
    one = machine.candidate(store, "one")

    def slowly() -> None:
        machine.at_s += 7.0

    store.before_write = slowly
    assert one.step()
    machine.at_s += SETTINGS.renew_within_s - 7.0
    assert not one.leads


def test_of_two_that_take_it_at_once_one_does() -> None:
    store, machine = Store(), Machine()
    one, two = machine.candidate(store, "one"), machine.candidate(store, "two")
    store.before_write = lambda: two.step() and None
    assert not one.step()
    assert "somebody else" in one.trouble
    assert two.leads
    assert not one.step()


def test_a_lease_that_says_it_holds_for_ever_does_not() -> None:
    store, machine = Store(Lease("ghost", math.inf, 0.0, 0.0, version="7")), Machine()
    one = machine.candidate(store, "one")
    one.step()
    machine.at_s += MOST_DURATION_S
    assert not one.step()
    machine.at_s += 1.0
    assert one.step()


def test_who_waits_knows_for_how_long() -> None:
    store, machine = Store(), Machine()
    one, two = machine.candidate(store, "one"), machine.candidate(store, "two")
    assert two.free_in_s == 0.0  # nobody has it
    one.step()
    assert one.free_in_s == 0.0
    machine.at_s = 3.0
    two.step()
    machine.at_s = 5.0
    assert two.free_in_s == SETTINGS.duration_s - 2.0  # from when it was seen, whatever it says
    machine.at_s = 30.0
    assert two.free_in_s == 0.0
    one.resign()
    two.step()
    assert two.free_in_s == 0.0


def test_a_lease_that_somebody_deleted_is_made_again() -> None:
    store, machine = Store(), Machine()
    one = machine.candidate(store, "one")
    one.step()
    store.lease = None
    assert one.step()


@pytest.mark.parametrize("wrong", [{"renew_within_s": 15.0}, {"retry_s": 10.0}, {"duration_s": 9.0}])
def test_times_in_which_two_could_act_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="must stop before another one may begin"):
        LeaseSettings(**wrong)


def test_a_candidate_without_a_name_is_a_bug() -> None:
    with pytest.raises(ValueError, match="identity"):
        Machine().candidate(Store(), "")


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["step", "down", "up", "mute", "sleep", "resign"]), st.floats(0.0, 9.0)
    ),
    max_size=80,
)


@given(
    STEPS, st.lists(st.floats(0.9, 1.1), min_size=3, max_size=3), st.lists(st.floats(-1e5, 1e5), min_size=3, max_size=3)
)
def test_at_no_moment_do_two_act(
    schedule: list[tuple[int, str, float]], rates: list[float], wall_ahead_s: list[float]
) -> None:
    """Clocks run a tenth apart, wall clocks say anything, and who sleeps wakes up in the middle of a write."""
    store = Store()
    machines = [Machine(wall_ahead_s=ahead) for ahead in wall_ahead_s]
    candidates = [machine.candidate(store, f"c{number}") for number, machine in enumerate(machines)]

    def pass_time(seconds: float) -> None:
        for machine, rate in zip(machines, rates, strict=True):
            machine.at_s += seconds * rate
        assert sum(candidate.leads for candidate in candidates) <= 1

    for number, what, seconds in schedule:
        pass_time(seconds)
        store.down = {"down": True, "up": False}.get(what, store.down)
        store.mute = what == "mute"
        if what == "resign" and number == 0:
            candidates[0].resign()
        elif what == "sleep":
            store.before_write = lambda pause=seconds: pass_time(4.0 * pause)
            candidates[number].step()
        else:
            candidates[number].step()
        assert sum(candidate.leads for candidate in candidates) <= 1
