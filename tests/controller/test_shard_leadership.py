"""Do shards of one division lead side by side, and those of another only once none of the first can act any more?"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from controller.leadership import Leadership
from controller.shard_leadership import ShardLeadership
from controller.shard_settings import ShardSettings
from tests.builders_lease import SETTINGS, Machine, Store

DURATION_S, WITHIN_S = SETTINGS.duration_s, SETTINGS.renew_within_s
OF_TWO = [ShardSettings(index=index, of=2) for index in range(2)]
OF_THREE = [ShardSettings(index=index, of=3) for index in range(3)]


@dataclass
class Fleet:
    """The leases of a fleet, and one clock for all who stand for them."""

    machine: Machine = field(default_factory=Machine)
    store: Store = field(default_factory=Store)
    stores: dict[str, Store] = field(default_factory=dict)

    def candidate(self, shard: ShardSettings, name: str = "") -> ShardLeadership:
        machine = self.machine
        own = machine.candidate(self.stores.setdefault(shard.title, Store()), name or f"one of {shard.title}")
        clock = lambda: machine.at_s  # noqa: E731 - both clocks of one machine
        return ShardLeadership(own, Leadership(self.store, SETTINGS, shard.layout, clock, clock, shared=True))

    def sleep(self, seconds: float) -> None:
        self.machine.at_s += seconds


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


def test_all_shards_of_a_division_lead_at_once_and_hold_the_lease_of_the_fleet_together(fleet: Fleet) -> None:
    several = [fleet.candidate(shard) for shard in OF_THREE]
    for _ in range(20):
        assert [one.step() for one in several] == [True] * 3
        fleet.sleep(SETTINGS.retry_s)
    assert fleet.store.lease is not None
    assert fleet.store.lease.holder == OF_THREE[0].layout
    assert fleet.store.lease.transitions == 0
    assert fleet.store.written <= len(several) + 19, "each takes it once, then one renewal is enough for all"
    assert {store.lease.holder for store in fleet.stores.values() if store.lease} == {
        f"one of shard {index} of 3" for index in range(3)
    }


def test_a_standby_of_a_shard_follows_at_once_where_its_leader_resigns(fleet: Fleet) -> None:
    leader, standby, other = fleet.candidate(OF_TWO[0]), fleet.candidate(OF_TWO[0], "next"), fleet.candidate(OF_TWO[1])
    assert (leader.step(), other.step(), standby.step()) == (True, True, False)
    assert standby.why_not() == "one of shard 0 of 2 leads"
    leader.resign()
    assert not leader.leads
    assert standby.step()
    assert other.leads


def test_another_division_waits_until_nobody_of_the_first_has_renewed_for_the_whole_duration(fleet: Fleet) -> None:
    old, new = fleet.candidate(OF_TWO[1]), fleet.candidate(OF_THREE[1])
    assert old.step()
    assert not new.step()
    layout = OF_TWO[1].layout
    assert new.why_not() == f"the fleet is divided otherwise: {layout} leads"
    assert new.holder == layout
    assert new.free_in_s == DURATION_S
    assert new.trouble == ""
    fleet.sleep(DURATION_S - 5.1)
    assert old.step()  # it is still there
    assert not new.step()
    old.resign()
    fleet.sleep(DURATION_S - 0.1)
    assert not new.step()
    fleet.sleep(0.2)
    assert new.step()
    assert not old.step()


@pytest.mark.parametrize("first", [OF_TWO[0], None])
def test_a_process_that_has_the_whole_fleet_and_shards_of_it_never_lead_together(
    fleet: Fleet, first: ShardSettings | None
) -> None:
    whole, shard = fleet.machine.candidate(fleet.store, "whole"), fleet.candidate(OF_TWO[0])
    one, other = (shard, whole) if first else (whole, shard)
    assert one.step()
    for _ in range(20):
        fleet.sleep(SETTINGS.retry_s)
        assert one.step()
        assert not other.step()
    fleet.sleep(WITHIN_S)
    assert not one.leads
    assert not other.step()
    fleet.sleep(DURATION_S - WITHIN_S + 0.1)
    assert other.step()


def test_who_hears_late_of_a_renewal_by_others_acts_no_longer_than_it_holds(fleet: Fleet) -> None:
    one, frozen, next_one = fleet.candidate(OF_TWO[0]), fleet.candidate(OF_TWO[1]), fleet.candidate(OF_THREE[0])
    assert one.step()
    assert frozen.step()
    for _ in range(2):  # it sees the renewal of the other one, and then renews
        fleet.sleep(0.1)
        assert one.step()
    assert fleet.store.written == 3
    assert not next_one.step()  # from now on it waits, and nobody renews
    fleet.sleep(WITHIN_S - 0.3)
    assert frozen.step()
    assert fleet.store.written == 3
    led_until_s = 0.0
    while not next_one.step():
        led_until_s = fleet.machine.at_s if frozen.leads else led_until_s
        fleet.sleep(0.25)
    assert not frozen.leads
    assert led_until_s <= WITHIN_S


def test_who_loses_the_lease_of_the_fleet_writes_nothing_though_its_own_holds(fleet: Fleet) -> None:
    one = fleet.candidate(OF_TWO[0])
    assert one.step()
    fleet.store.down = True
    for _ in range(6):
        fleet.sleep(SETTINGS.retry_s)
        one.step()
    assert not one.leads
    assert one.why_not() == "the lease was not renewed in time"
    assert one.trouble == "the API server does not answer"
    fleet.store.down = False
    assert one.step()


def test_a_write_that_takes_longer_than_either_lease_holds_is_not_sent(fleet: Fleet) -> None:
    one = fleet.candidate(OF_TWO[0])
    one.step()
    assert one.why_not(WITHIN_S - 0.1) == ""
    fleet.sleep(1.0)
    assert "the write may take" in one.why_not(WITHIN_S - 0.1)
