"""Do people at each of two clusters learn of what is there, whatever becomes of the other one?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.cluster_writes import KubernetesCluster
from controller.adapters.kube.event_book import BURST, MOST_KNOWN, MOST_WAITING, TOKEN_S
from controller.adapters.kube.events import MOST_AT_ONCE
from controller.adapters.kube.member_events import MemberEvents
from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.members import MemberClusters
from controller.adapters.kube.settings import LeasePlace
from controller.adapters.system_clock import SystemClock
from controller.platforms import open_platform
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    FailOver,
    Page,
    Reason,
    RestartReplica,
    ScalingPlan,
    TrafficPlan,
)
from policies.fleet import PoolKey
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import FixedClock
from tests.builders_events import blind, events_of, record, sick_at
from tests.builders_kube import T0
from tests.builders_kube_api import MERGE, Fleet, caught_up, settings_for
from tests.builders_policies import until

EAST, WEST = PoolKey("llama", "east.llama"), PoolKey("llama", "west.llama")
POOLS = (EAST, WEST)
POD = "llama-abc-0"
ROUTE = {"namespace": "prod", "name": "chat", "model": "llama", "backends": {"east.llama": "e", "west.llama": "w"}}
UP = {EAST: ScalingPlan(EAST, 2, 3, 1), WEST: ScalingPlan(WEST, 2, 4, 1)}
READ_ONLY = Subject("foresail", (Rule(("get", "list", "watch"), ("*",), ("*",)),))


@dataclass
class Places:
    """Two clusters with a Deployment ``llama`` each, and the Events of them. Time passes when it is told to."""

    fleets: Mapping[str, Fleet]
    views: Mapping[str, KubernetesView]
    clusters: MemberClusters
    events: MemberEvents
    clock: FixedClock

    def api(self, member: str) -> RunningApi:
        return self.fleets[member].api

    def tick(self, *parts: Any, **more: Any) -> None:
        """Let a tick pass that looked, and decided this."""
        self.clusters.pools()
        self.events.saw(record(self.clock.at, *parts, pools=POOLS, **more))
        self.later(15.0)

    def later(self, seconds: float) -> None:
        for events in self.events.members.values():
            events.round()
        self.clock.at += seconds

    def told(self, member: str, name: str = "llama", namespace: str = "prod") -> list[Any]:
        return events_of(self.api(member), name, namespace)

    def reasons(self, name: str = "llama", namespace: str = "prod") -> dict[str, list[str]]:
        """Return, by member, the reasons of what is told of an object of that name."""
        return {member: [event.reason for event in self.told(member, name, namespace)] for member in self.fleets}


def _settings(fleets: Mapping[str, Fleet], folder: Path, **more: Any) -> ClustersSettings:
    members = {}
    for name, fleet in fleets.items():
        (folder / name).mkdir(exist_ok=True)
        quick = {"stale_after_s": 2.0, "timeout_s": 1.0, "write_timeout_s": 0.5, "longest_backoff_s": 0.2}
        members[name] = dict(settings_for(fleet.api, folder / name, **{**quick, **more.get(name, {})}))
    return ClustersSettings.model_validate({"members": members})


@contextmanager
def _placed(fleets: Mapping[str, Fleet], folder: Path, **more: Any) -> Iterator[Places]:
    settings = _settings(fleets, folder, **{"east": {"routes": (ROUTE,)}, **more})
    clock, elapsed = FixedClock(T0), SystemClock().elapsed
    clusters = {
        name: KubernetesCluster(member, elapsed, clock.now, np.random.default_rng(number))
        for number, (name, member) in enumerate(settings.members.items())
    }
    together = MemberClusters(clusters, clock.now, optional=settings.optional)
    views = {name: cluster.view for name, cluster in clusters.items()}
    together.start()
    try:
        together.pools()
        events = MemberEvents(settings, views, together, clock.now, "foresail-0")
        yield Places(fleets, views, together, events, clock)
    finally:
        together.close()


@pytest.fixture(name="fleets")
def _fleets() -> Iterator[Mapping[str, Fleet]]:
    with ExitStack() as stack:
        apis = {name: stack.enter_context(running_api(bookmark_every_s=0.05)) for name in ("east", "west")}
        fleets = {name: Fleet(api) for name, api in apis.items()}
        for name, fleet in fleets.items():
            fleet.deployment(pods=2)
            fleet.api.add_nodes(1, prefix=f"{name}-node")
        yield fleets


@pytest.fixture(name="places")
def _places(fleets: Mapping[str, Fleet], tmp_path: Path) -> Iterator[Places]:
    nodes = {"nodes": True}
    with _placed(fleets, tmp_path, east={"routes": (ROUTE,), **nodes}, west=nodes) as places:
        yield places


def test_each_object_is_told_of_at_the_member_that_has_it(places: Places) -> None:
    places.clusters.nodes()
    sick = sick_at(T0, WEST, POD)
    failed = FailOver("llama", WEST, EAST, "serves with 0 of 2 replicas")
    share = TrafficPlan("llama", {EAST: 1.0, WEST: 0.0})
    ours = CordonReplica(POD, WEST, "F7"), AvoidNode("west-node-0", "F2"), failed, share
    places.tick(UP[EAST], *ours, sick=(sick,), why=(Reason("blind", str(WEST), 2, 2, "its load is not observed"),))
    assert places.reasons() == {"east": ["ScaledUp"], "west": ["HeldUnobserved"]}
    assert places.reasons(POD) == {"east": [], "west": ["ReplicaCordoned"]}
    assert places.reasons("chat") == {"east": ["FailedOver"], "west": []}
    assert places.reasons("west-node-0", "default") == {"east": [], "west": ["NodeAvoided"]}
    (shared,) = places.told("east", "chat")
    assert shared.message == (
        "Failed over: traffic is shared as east.llama 100%, west.llama 0%: "
        "west.llama is given up for east.llama (serves with 0 of 2 replicas)"
    )
    (scaled,) = places.told("east")
    deployment = places.api("east").call("GET", "/apis/apps/v1/namespaces/prod/deployments/llama")
    assert scaled.involved_object.uid == deployment["metadata"]["uid"]


def test_what_is_of_a_whole_model_is_told_at_all_members_that_have_pools_of_it(places: Places) -> None:
    places.tick(Page("llama", "breaker", "4 of 4 replicas look sick at once: healing stops"))
    assert places.reasons() == {"east": ["HumanCalled"], "west": ["HumanCalled"]}


def test_an_owner_of_a_count_is_told_at_its_member_with_what_to_do_about_it(places: Places) -> None:
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llama"}
    body = {"metadata": {"name": "other"}, "spec": {"scaleTargetRef": ref, "maxReplicas": 9}}
    west = places.api("west")
    west.call("POST", "/apis/autoscaling/v2/namespaces/prod/horizontalpodautoscalers", body)
    assert caught_up(west, chain.from_iterable(places.views["west"].reflectors.values()))
    owned = "HorizontalPodAutoscaler prod/other owns the replica count: left alone"
    places.tick(why=(Reason("other owner", str(WEST), 2, 2, owned),))
    assert places.reasons() == {"east": [], "west": ["ScaleRefused"]}
    assert "delete or pause HorizontalPodAutoscaler prod/other" in places.told("west")[0].message


def test_what_concerns_the_whole_fleet_is_told_once_at_the_first_member_that_is_reached(places: Places) -> None:
    lost = "nothing could be observed for 300 s: member west does not answer"
    places.events.saw(blind(T0, lost))
    places.later(15.0)
    assert places.reasons("prod") == {"east": ["HumanCalled"], "west": []}
    (told,) = places.told("east", "prod")
    assert (told.involved_object.kind, told.type, told.message) == ("Namespace", "Warning", lost.capitalize())
    places.tick(why=(Reason("seen again", "fleet", 0, 1, "nothing could be observed for 360 s; that is over"),))
    assert places.reasons("prod") == {"east": ["HumanCalled", "SeenAgain"], "west": []}
    places.api("east").partition("reset")
    _until_lost(places, "east")
    places.events.saw(blind(places.clock.at, lost))
    places.later(15.0)
    places.api("east").heal()
    assert places.reasons("prod") == {"east": ["HumanCalled", "SeenAgain"], "west": ["HumanCalled"]}


def test_what_concerns_the_whole_fleet_is_told_where_the_lease_is(fleets: Mapping[str, Fleet], tmp_path: Path) -> None:
    lease = {"lease": LeasePlace()}
    with _placed(fleets, tmp_path, west=lease) as places:
        places.tick(Page("fleet", "breaker", "9 of 9 replicas look sick at once: healing stops"))
        assert places.reasons("prod") == {"east": [], "west": ["HumanCalled"]}


def test_each_member_is_told_by_its_own_settings(fleets: Mapping[str, Fleet], tmp_path: Path) -> None:
    with _placed(fleets, tmp_path, east={"events": False}) as places:
        places.events.start()
        places.tick(*UP.values(), Page("fleet", "breaker", "healing stops"))
        assert places.reasons() == {"east": [], "west": ["ScaledUp"]}
        assert places.reasons("prod") == {"east": [], "west": ["HumanCalled"]}
        places.events.close()


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_while_a_member_cannot_be_reached_the_others_are_told_and_it_is_told_after_that(
    places: Places, how: str
) -> None:
    west = places.api("west")
    west.partition("hang" if how == "hang" else "reset")
    _until_lost(places, "west")
    for number in range(3):
        places.tick(ScalingPlan(EAST, number, number + 1, 1), ScalingPlan(WEST, number, number + 1, 1))
    assert [event.reason for event in places.told("east")] == ["ScaledUp"] * 3
    west.heal()
    places.later(TOKEN_S)
    places.later(0.0)
    assert [event.first_timestamp.timestamp() for event in places.told("west")] == [T0, T0 + 15.0, T0 + 30.0]


def test_one_without_the_right_is_told_nothing_and_the_other_all(fleets: Mapping[str, Fleet], tmp_path: Path) -> None:
    fleets["west"].api.grant("reader", READ_ONLY)
    with _placed(fleets, tmp_path, west={"known_as": "reader"}) as places, capture_logs() as logs:
        for _ in range(3):
            places.tick(*UP.values())
        assert [(event.reason, event.count) for event in places.told("east")] == [("ScaledUp", 3)]
        assert places.api("west").call("GET", "/api/v1/namespaces/prod/events")["items"] == []
    (told,) = [line for line in logs if line["event"] == "events not sent"]
    assert "grant it: a Role in namespace prod" in told["why"]


def test_an_event_that_others_change_is_gone_on_with_at_its_member(places: Places) -> None:
    places.tick(*UP.values())
    (event,) = places.told("west")
    path = f"/api/v1/namespaces/prod/events/{event.metadata.name}"
    places.api("west").call("PATCH", path, {"count": 9}, MERGE)
    places.tick(*UP.values())
    assert [told.count for told in places.told("west")] == [10]
    assert [told.count for told in places.told("east")] == [2]


def test_a_conflict_that_never_ends_costs_its_event_and_no_other(places: Places) -> None:
    places.api("west").fault(Fault(code=409, verbs=("create", "patch"), resources=("events",)))
    places.tick(*UP.values())
    assert places.reasons() == {"east": ["ScaledUp"], "west": []}
    assert not places.events.members["west"].book.waiting


def test_what_happened_to_a_replica_that_is_gone_is_told_all_the_same(places: Places) -> None:
    places.fleets["west"].delete("pods", POD)
    until(lambda: POD not in {r.id for p in places.clusters.pools() for r in p.replicas if p.key == WEST})
    places.tick(RestartReplica(POD, WEST, "F7"), sick=(sick_at(T0, WEST, POD),))
    (told,) = places.told("west", POD)
    assert (told.reason, told.involved_object.kind, told.involved_object.uid) == ("ReplicaRestarted", "Pod", None)


def test_all_that_is_counted_is_told_from_the_beginning(places: Places) -> None:
    """A series that begins with its first refusals would not have grown by them."""
    assert places.events.counts == {"told": 0, "refused": 0, "dropped": 0}
    places.tick(UP[EAST], UP[WEST])
    assert places.events.counts == {"told": 2, "refused": 0, "dropped": 0}


def test_of_a_pool_that_is_gone_nothing_is_told_and_of_the_others_all(places: Places) -> None:
    places.fleets["west"].delete("deployments", "llama")
    until(lambda: WEST not in {pool.key for pool in places.clusters.pools()})
    places.tick(*UP.values())
    assert places.reasons() == {"east": ["ScaledUp"], "west": []}


def test_ten_thousand_things_at_once_are_bounded_at_each_member(places: Places) -> None:
    places.clusters.pools()
    refused = [Reason("disruption budget", f"llama-{n}", 0, 0, "another one is under repair") for n in range(10_000)]
    sick = tuple(sick_at(T0, WEST, one.subject) for one in refused)
    places.tick(UP[EAST], sick=sick, why=tuple(refused))
    west, east = places.events.members["west"].book, places.events.members["east"].book
    assert len(west.waiting) == MOST_WAITING - MOST_AT_ONCE
    assert len(west._known) <= MOST_KNOWN
    assert not east.waiting
    assert places.reasons()["east"] == ["ScaledUp"]
    sent = places.api("west").call("GET", "/api/v1/namespaces/prod/events")["items"]
    assert len(sent) == MOST_AT_ONCE


def test_of_too_much_at_once_acts_are_what_is_kept(places: Places) -> None:
    refused = [Reason("disruption budget", f"llama-{n}", 0, 0, "another one is under repair") for n in range(3_000)]
    places.tick(UP[WEST], sick=tuple(sick_at(T0, WEST, one.subject) for one in refused), why=tuple(refused))
    waits = [one.notice.reason for one in places.events.members["west"].book.waiting.values()]
    assert waits[-1] == "ScaledUp"


def test_at_the_end_what_waits_is_sent_at_once_and_nothing_after_it(places: Places) -> None:
    places.events.start()
    places.clusters.pools()
    for number in range(BURST + 5):  # more than one object may have at once
        plan = ScalingPlan(EAST, number, number + 1, 1)
        places.events.members["east"].take(record(T0, plan, pools=POOLS))
        until(lambda: not places.events.members["east"]._records)
    until(lambda: len(places.told("east")) == BURST)
    places.events.flush(2.0)
    assert len(places.told("east")) == BURST + 5
    places.events.saw(record(T0, UP[WEST], pools=POOLS))
    places.events.close()
    assert places.told("west") == []


def test_at_the_end_one_that_hangs_costs_no_more_than_the_bound_and_the_other_nothing(
    fleets: Mapping[str, Fleet], tmp_path: Path
) -> None:
    elapsed = SystemClock().elapsed
    slow = {"write_timeout_s": 30.0}
    platform = open_platform(_settings(fleets, tmp_path, west=slow))
    platform.cluster.pools()
    fleets["west"].api.fault(Fault(hang=True, resources=("events",)))
    assert platform.witness is not None
    before_s = elapsed()
    platform.witness.saw(record(T0, *UP.values(), pools=POOLS))
    assert elapsed() - before_s < 0.5  # two deques were appended to
    platform.flush(1.0)
    took_s = elapsed() - before_s
    assert [event.reason for event in events_of(fleets["east"].api, "llama")] == ["ScaledUp"]
    platform.close()
    assert 1.0 <= took_s < 2.0
    fleets["west"].api.heal()


def _until_lost(places: Places, member: str) -> None:
    until(lambda: bool(places.clusters.pools()) and member in places.clusters.unreached)
