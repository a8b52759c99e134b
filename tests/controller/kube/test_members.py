"""Are several clusters one fleet, of which nothing is lost where one cannot be reached?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.adapters.kube.member_routers import MemberRouters
from controller.errors import ActuationError, ObservationError
from controller.ports import Cluster
from policies.fleet import NodeState, PoolKey
from tests.builders import AT, KEY, MODEL, OTHER, FakeCluster, FakeRouter, FixedClock, pool, replica
from tests.builders_members import Link, of_member, over

EAST, WEST = of_member("east", KEY), of_member("west", KEY)


class Pair:
    """Two clusters with a pool of the same name in each."""

    def __init__(self, **changes: object) -> None:
        self.clock = FixedClock()
        self.east = FakeCluster(self.clock, {KEY: pool(2)})
        self.west = FakeCluster(self.clock, {KEY: pool([replica("w0"), replica("w1"), replica("w2")])})
        self.links = {"east": Link(self.east, "east"), "west": Link(self.west, "west")}
        self.both = over(self.links, self.clock.now, **changes)


@pytest.fixture(name="pair")
def _pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.both.close()


def told(cluster: Cluster) -> dict[str, tuple[int, bool]]:
    """Return, of each pool, how many replicas it is told with and whether from memory."""
    return {state.key.pool: (len(state.replicas), state.untold) for state in cluster.pools()}


def test_pools_of_all_members_are_told_with_the_name_of_theirs(pair: Pair) -> None:
    assert told(pair.both) == {"east.a": (2, False), "west.a": (3, False)}
    assert pair.both.home_of(WEST) == ("west", KEY)
    first = pair.both.pools()
    assert all(again is before for again, before in zip(pair.both.pools(), first, strict=True))


def test_a_write_goes_to_the_member_that_has_the_pool(pair: Pair) -> None:
    version = {state.key: state.version for state in pair.both.pools()}
    pair.both.scale(WEST, 4, version[WEST])
    pair.both.cordon(EAST, "a0")
    pair.both.pause(WEST)
    assert (pair.links["east"].acts, pair.links["west"].acts) == (["cordon"], ["scale", "pause"])
    assert (pair.east.states[KEY].desired, pair.west.states[KEY].desired) == (2, 4)


def test_a_member_that_cannot_be_reached_is_told_as_it_was_last_seen(pair: Pair) -> None:
    before = pair.both.pools()
    pair.links["west"].cut = True
    pair.clock.at += 15.0
    east, west = pair.both.pools()
    assert east is before[0]
    assert west == replace(before[1], last_told_at=AT)
    assert [str(note) for note in pair.both.notes()] == ["member west: cannot be reached: west does not answer"]
    pair.clock.at += 15.0
    assert pair.both.pools()[1] is west


@pytest.mark.parametrize("verb", ["cordon", "uncordon", "restart", "roll_back"])
def test_nothing_is_done_at_a_member_that_cannot_be_reached(pair: Pair, verb: str) -> None:
    pair.both.pools()
    pair.links["west"].cut = True
    pair.both.pools()
    with pytest.raises(ActuationError, match="member west cannot be reached"):
        getattr(pair.both, verb)(WEST, "w0")
    pair.links["west"].cut = False  # as of the last look it still is
    with pytest.raises(ActuationError, match="member west cannot be reached"):
        getattr(pair.both, verb)(WEST, "w0")
    assert pair.links["west"].acts == []


def test_what_comes_back_is_told_as_it_is_now(pair: Pair) -> None:
    pair.both.pools()
    pair.links["west"].cut = True
    pair.west.states[KEY] = pool([replica("w9")])
    assert told(pair.both)["west.a"] == (3, True)
    pair.links["west"].cut = False
    assert told(pair.both) == {"east.a": (2, False), "west.a": (1, False)}
    assert pair.both.notes() == ()
    pair.both.cordon(WEST, "w9")


def test_a_member_never_seen_hides_the_fleet_unless_it_is_optional() -> None:
    for optional in (False, True):
        pair = Pair(optional={"west"} if optional else ())
        pair.links["west"].cut = True
        if optional:
            assert told(pair.both) == {"east.a": (2, False)}
        else:
            with pytest.raises(ObservationError, match="member west was not reached since the start"):
                pair.both.pools()
        pair.links["west"].cut = False
        assert set(told(pair.both)) == {"east.a", "west.a"}
        pair.links["west"].cut = True
        assert told(pair.both)["west.a"] == (3, True)
        pair.both.close()


def test_a_member_is_not_held_for_ever() -> None:
    pair = Pair(hold_s=60.0)
    pair.both.pools()
    pair.links["west"].cut = True
    pair.clock.at += 60.0
    assert told(pair.both)["west.a"] == (3, True)
    pair.clock.at += 1.0
    with pytest.raises(ObservationError, match=r"member west was last reached 61 s ago: west does not answer"):
        pair.both.pools()
    pair.links["west"].cut = False
    assert told(pair.both)["west.a"] == (3, False)
    pair.both.close()


def test_without_prefixes_a_name_that_two_have_is_refused_at_both() -> None:
    pair = Pair(pool_prefix=False)
    pair.east.states[OTHER] = pool(1, OTHER)
    assert set(told(pair.both)) == {"b"}
    assert [str(note) for note in pair.both.notes()] == [
        f"pool {KEY}: two members tell of it: rename one, or set pool_prefix"
    ]
    with pytest.raises(ActuationError, match="no member has a pool"):
        pair.both.cordon(KEY, "a0")
    pair.both.cordon(OTHER, "b0")
    assert pair.links["east"].acts == ["cordon"]
    del pair.west.states[KEY]
    assert told(pair.both) == {"a": (2, False), "b": (1, False)}
    pair.both.close()


def test_names_of_nodes_that_two_members_have_tell_the_member(pair: Pair) -> None:
    class OnNodes(FakeCluster):
        def nodes(self) -> dict[str, NodeState]:
            return {node: NodeState(ready=True, since_at=AT) for node in self.names}

        names: tuple[str, ...] = ()

    east, west = OnNodes(pair.clock, {KEY: pool([replica(node="n1")])}), OnNodes(pair.clock, {})
    east.names, west.names = ("n1", "e2"), ("n1", "w2")
    links = {"east": Link(east), "west": Link(west)}
    both = over(links, pair.clock.now)
    ((one,), *_) = [state.replicas for state in both.pools()]
    assert one.node == "east/n1"
    assert sorted(both.nodes()) == ["e2", "east/n1", "w2", "west/n1"]
    both.avoid("west/n1")
    both.avoid("w2")
    assert (east.writes, west.writes) == ([], [("avoid", "n1"), ("avoid", "w2")])
    links["west"].cut = True
    both.pools()
    assert sorted(both.nodes()) == ["e2", "east/n1", "w2", "west/n1"]
    with pytest.raises(ActuationError, match="member west cannot be reached"):
        both.stop_avoiding("w2")
    with pytest.raises(ActuationError, match="no member has a node"):
        both.avoid("n1")
    west.names = ("w2",)
    links["west"].cut = False
    assert [state.replicas[0].node for state in both.pools()] == ["n1"]
    both.close()


def test_a_member_whose_nodes_cannot_be_told_is_not_reached(pair: Pair) -> None:
    class Nodeless(FakeCluster):
        def nodes(self) -> dict[str, NodeState]:
            if self.blind:
                raise ObservationError("nodes: forbidden", "fake")
            return {}

        def pools(self) -> tuple[object, ...]:  # type: ignore[override]
            return tuple(self.states.values())

    east = Nodeless(pair.clock, {KEY: pool(1)})
    both = over({"east": Link(east)}, pair.clock.now)
    both.pools()
    east.blind = True
    assert both.nodes() == {}
    with pytest.raises(ActuationError, match="forbidden"):
        both.cordon(EAST, "a0")
    assert told(both) == {"east.a": (1, True)}
    both.close()


@given(st.lists(st.tuples(st.sampled_from(("east", "west")), st.sampled_from(("cut", "heal", "scale"))), max_size=25))
def test_the_fleet_is_never_told_with_less_than_was_last_seen_of_each(happens: list[tuple[str, str]]) -> None:
    pair = Pair()
    clusters = {"east": pair.east, "west": pair.west}
    pair.both.pools()
    seen = {name: (cluster.states[KEY], AT) for name, cluster in clusters.items()}
    try:
        for name, what in happens:
            pair.clock.at += 15.0
            if what == "scale":
                state = clusters[name].states[KEY]
                clusters[name].scale(KEY, state.desired % 5 + 1, state.version)
            else:
                pair.links[name].cut = what == "cut"
            found = {state.key: state for state in pair.both.pools()}
            for member, cluster in clusters.items():
                if not pair.links[member].cut:
                    seen[member] = cluster.states[KEY], pair.clock.at
                state, at = seen[member]
                shown = found[of_member(member, KEY)]
                assert (shown.replicas, shown.desired) == (state.replicas, state.desired)
                assert shown.untold == pair.links[member].cut
                assert not shown.untold or shown.last_told_at == at
    finally:
        pair.both.close()


def test_the_route_of_a_model_is_asked_where_it_is() -> None:
    hub, other = FakeRouter({EAST: 0.5, WEST: 0.5}), FakeRouter({PoolKey("n", "east.a"): 1.0})
    routers = MemberRouters({"east": hub, "west": other}, {MODEL: "east", "n": "west"})
    assert routers.weights(MODEL) == {EAST: 0.5, WEST: 0.5}
    routers.set_weights(MODEL, {EAST: 1.0, WEST: 0.0})
    assert (len(hub.writes), len(other.writes)) == (1, 0)
    other.blind = True
    for model in ("n", "unknown"):
        with pytest.raises(ObservationError):
            routers.weights(model)
    with pytest.raises(ActuationError):
        routers.set_weights("unknown", {})
