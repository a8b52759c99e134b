"""Does one of several lead, another when that one is gone, and is nothing sent by who does not?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from threading import Barrier
from typing import TypeAlias

import pytest

from controller.adapters.kube.kinds import DEPLOYMENTS
from controller.adapters.kube.lease import KubernetesLease
from controller.adapters.kube.settings import LeasePlace
from controller.adapters.system_clock import SystemClock
from controller.errors import ActuationError
from controller.leadership import Leadership
from tests.builders_acting import acting_on, key_of
from tests.builders_any_cluster import LEASES, Hands, Place
from tests.builders_lease import Machine

Stands: TypeAlias = Callable[[str, str], Leadership]


@pytest.fixture(name="machine")
def _machine() -> Machine:
    """Their clock: what a lease says of time is for people, and who waits does so by the own clock."""
    return Machine()


@pytest.fixture(name="stands")
def _stands(place: Place, machine: Machine) -> Iterator[Stands]:
    """Candidates, by the name of their lease and their own."""
    with ExitStack() as opened:

        def stands(lease: str, name: str) -> Leadership:
            at = LeasePlace(namespace=place.namespace, name=lease)
            store = KubernetesLease(place.hands.settings.model_copy(update={"lease": at}), SystemClock().elapsed)
            opened.callback(store.close)
            return Leadership(store, at, name, place.hours.now, lambda: machine.at_s)

        yield stands


def test_one_leads_and_another_takes_over_once_it_is_silent(stands: Stands, machine: Machine, hands: Hands) -> None:
    one, other = stands("taken", "one"), stands("taken", "other")
    assert (one.step(), other.step()) == (True, False)
    assert other.why_not() == "one leads"
    duration_s = one.settings.duration_s
    machine.at_s += one.settings.renew_within_s + 0.1
    assert not one.leads  # before anybody else may begin
    assert not other.step()
    machine.at_s += duration_s - one.settings.renew_within_s
    assert other.step()
    assert not one.step()
    held = hands.get(LEASES, "taken")["spec"]
    assert (held["holderIdentity"], held["leaseTransitions"]) == ("other", 1)


def test_one_that_ends_gives_it_away_at_once(stands: Stands, hands: Hands) -> None:
    one, other = stands("given", "one"), stands("given", "other")
    assert one.step()
    assert not other.step()
    one.resign()
    assert other.step()
    assert hands.get(LEASES, "given")["spec"]["holderIdentity"] == "other"
    assert not one.step()


def test_however_many_want_it_at_once_one_gets_it(stands: Stands, machine: Machine) -> None:
    several = [stands("wanted", f"candidate-{number}") for number in range(6)]
    start = Barrier(len(several))

    def step(one: Leadership) -> bool:
        start.wait()
        return one.step()

    leaders = []
    with ThreadPoolExecutor(len(several)) as threads:
        for _ in range(5):
            list(threads.map(step, several))
            leading = [one for one in several if one.leads]
            assert len(leading) == 1
            leaders.append(leading[0].identity)
            machine.at_s += 2 * leading[0].settings.duration_s  # silent for too long, all of them may take it
            for one in several:
                assert not one.leads
    assert len(leaders) == 5


def test_what_somebody_who_does_not_lead_wants_written_is_not_sent(
    place: Place, hands: Hands, stands: Stands, machine: Machine
) -> None:
    one, other = stands("fenced", "one"), stands("fenced", "other")
    assert (one.step(), other.step()) == (True, False)
    with acting_on(place, one.why_not) as leads, acting_on(place, other.why_not) as waits:
        pool = leads.labelled("fenced", 1)
        assert waits.at_rest("fenced", 1).version == pool.version
        before = hands.get(DEPLOYMENTS, "fenced")
        with pytest.raises(ActuationError, match="not sent: one leads"):
            waits.cluster.scale(key_of("fenced"), 2, pool.version)
        assert hands.get(DEPLOYMENTS, "fenced")["spec"] == before["spec"]
        leads.scale("fenced", 2)
        leads.at_rest("fenced", 2)
        machine.at_s += one.settings.duration_s + 1.0  # one is paused, wakes up, and goes on with what it was at
        assert other.step()
        version = leads.at_rest("fenced", 2).version
        with pytest.raises(ActuationError, match="not sent"):
            leads.cluster.scale(key_of("fenced"), 5, version)
        waits.at_rest("fenced", 2)
        waits.scale("fenced", 3)
    assert hands.get(DEPLOYMENTS, "fenced")["spec"]["replicas"] == 3


def test_what_others_have_put_on_the_lease_stays(stands: Stands, hands: Hands) -> None:
    label = {"team": "inference"}
    hands.create(LEASES, {"metadata": {"name": "labelled", "labels": label}, "spec": {}})
    one = stands("labelled", "one")
    assert one.step()
    held = hands.get(LEASES, "labelled")
    assert (held["metadata"]["labels"], held["spec"]["holderIdentity"]) == (label, "one")
