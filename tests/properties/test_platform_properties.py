"""Does the platform keep its books in any world, and does Foresail keep its rules on it?"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from controller.errors import ActuationError
from policies.fleet import Phase, PoolState
from policies.placement import PoolSettings
from simulations.case import SimulationSettings
from simulations.faults import (
    Crash,
    Hang,
    KvShrink,
    NodeLoss,
    Partition,
    Reclaim,
    ReplicaTarget,
    Rollout,
    StartFailures,
    StockOut,
)
from simulations.fleet import SimulatedFleet
from simulations.job import forecaster_chain
from simulations.outcomes import RequestStatus
from simulations.platform_settings import PlatformSettings
from simulations.runner import Tick, simulate
from simulations.startup import StartupModel
from tests.builders_fleet import a_batch, a_fleet, a_pool, poisson
from tests.builders_simulation import SMALL, RateTrace, quick_settings

GPUS = 2  # of the test profile


@dataclass
class Books:
    """Who held GPUs when, as seen from outside at every instant at which something was done."""

    since: dict[str, float] = field(default_factory=dict)
    held_s: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def look(self, pools: tuple[PoolState, ...], at: float, before: float) -> None:
        """Count the time since the look before for whoever is placed at both ends."""
        placed = {pool.key.replica(r.id) for pool in pools for r in pool.replicas if r.node}
        for name in placed & set(self.since):
            self.held_s[name] += at - before
        self.since = dict.fromkeys(placed, at)


@st.composite
def platforms(draw: st.DrawFn) -> PlatformSettings:
    nodes = {
        "gpus_per_node": draw(st.sampled_from([2, 4, 8])),
        "nodes": draw(st.integers(0, 2)),
        "max_nodes": draw(st.sampled_from([None, 2, 3])),
        "provisioning_s": draw(st.sampled_from([0.0, 25.0])),
        "idle_s": 20.0,
    }
    shared = draw(st.booleans())
    spot = draw(st.sampled_from([None, {"reclaims_per_hour": 60.0, "notice_s": draw(st.sampled_from([0.0, 15.0]))}]))
    said: dict[str, Any] = {
        "nodes": nodes,
        "spot": spot,
        "gpu_stock": draw(st.sampled_from([{}, {"test": 8}])),
        "gpu_quota": draw(st.sampled_from([None, 10])),
        "quota_refuses": draw(st.sampled_from(["replicas", "scaling"])),
    }
    if shared:
        said |= {"node_groups": {"x": nodes}, "pools": {name: {"node_group": "x"} for name in ("main", "spare")}}
    return PlatformSettings.model_validate(said)


@st.composite
def worlds(draw: st.DrawFn) -> tuple[SimulatedFleet, PlatformSettings, list[tuple[float, str, int]], int]:
    """A fleet on a random platform, with faults to come, what is asked for when, and how many requests arrive."""
    seed, requests = draw(st.integers(0, 1_000)), draw(st.integers(1, 120))
    platform = draw(platforms())
    startup = StartupModel(
        phase_p90_ratio=1.3, straggler_ratio=0.2, failure_ratio=draw(st.sampled_from([0.0, 0.5])), keeps_image=True
    )
    pools = [
        a_pool(draw(st.integers(0, 3)), name, lead_time_s=15.0, startup=startup, revisions=("1", "2"))
        for name in ("main", "spare")
    ]
    batch = a_batch(poisson(3.0, requests, seed), output_tokens=draw(st.sampled_from([50, 1_500])))
    fleet = a_fleet(pools, [batch], seed, platform=platform, drain_deadline_s=10.0, restart_backoff_s=3.0)
    for at in draw(st.lists(st.floats(0.0, 80.0), max_size=6)):
        target = ReplicaTarget(("main", "spare")[int(at * 3) % 2], int(at) % 3)
        faults = (
            Crash(at, target),
            Hang(at, target),
            NodeLoss(at, target),
            Reclaim(at, target, notice_s=8.0),
            StockOut(at, duration_s=30.0),
            NodeLoss(at, target, grace_s=12.0),
            Rollout(at, target),
            StartFailures(at, target, "ImagePullBackOff" if at > 40 else "CrashLoopBackOff", 60.0),
            Partition(at, target, 20.0),
            KvShrink(at, target, 0.05, 30.0),
            Hang(at, target, duration_s=15.0),
        )
        fleet.inject(faults[int(at * 7) % len(faults)])
    verbs = st.sampled_from(["scale", "scale", "restart", "roll_back", "cordon", "pause", "avoid"])
    acts = draw(st.lists(st.tuples(st.floats(0.0, 80.0), verbs, st.integers(0, 5)), max_size=8))
    return fleet, platform, sorted(acts), requests


def act(fleet: SimulatedFleet, verb: str, number: int) -> None:
    pool = fleet.cluster.pools()[number % 2]
    replica = pool.replicas[number % len(pool.replicas)].id if pool.replicas else ""
    try:
        match verb:
            case "scale":
                fleet.cluster.scale(pool.key, number, pool.version)
            case "restart":
                fleet.cluster.restart(pool.key, replica)
            case "cordon":
                fleet.cluster.cordon(pool.key, replica)
            case "roll_back":
                fleet.cluster.roll_back(pool.key, str(1 + number % 2))
            case "pause":
                fleet.cluster.pause(pool.key)
            case "avoid":
                fleet.cluster.avoid(min(fleet.cluster.nodes() or [""]))
    except ActuationError:
        pass  # a quota that refuses, or a pool without replicas


def check_limits(pools: tuple[PoolState, ...], platform: PlatformSettings) -> None:
    """GPUs that are placed stay within the stock, every node, and the number of nodes; those asked for in the quota."""
    on_node: dict[str, int] = defaultdict(int)
    for pool in pools:
        for replica in pool.replicas:
            assert (replica.node == "") == (replica.phase is Phase.PENDING and not replica.node)
            if replica.node:
                on_node[replica.node] += GPUS
    settings = next(iter(platform.node_groups.values()), platform.nodes)
    assert settings.gpus_per_node is not None
    assert all(used <= settings.gpus_per_node for used in on_node.values())
    assert sum(on_node.values()) <= platform.gpu_stock.get("test", math.inf)
    groups = len({name.rpartition("-node-")[0] for name in on_node})
    assert len(on_node) <= (math.inf if settings.max_nodes is None else settings.max_nodes * groups)
    listed = sum(len(pool.replicas) for pool in pools)
    assert platform.gpu_quota is None or listed * GPUS <= platform.gpu_quota


@hypothesis_settings(max_examples=80, deadline=None)
@given(worlds())
def test_gpus_stay_within_every_limit_each_is_paid_once_and_no_request_or_replica_is_lost(
    world: tuple[SimulatedFleet, PlatformSettings, list[tuple[float, str, int]], int],
) -> None:
    fleet, platform, acts, requests = world
    books, before = Books(), 0.0
    books.look(fleet.cluster.pools(), 0.0, 0.0)
    for at in np.arange(0.25, 100.0, 0.25).tolist():
        fleet.advance(at)
        books.look(fleet.cluster.pools(), at, before)
        before = at
        while acts and acts[0][0] <= at:
            _, verb, number = acts.pop(0)
            act(fleet, verb, number)
            books.look(fleet.cluster.pools(), at, at)
        pools = fleet.cluster.pools()
        check_limits(pools, platform)
        for pool in pools:
            ids = [r.id for r in pool.replicas]
            assert len(set(ids)) == len(ids)
            standing = [r for r in pool.replicas if r.phase is not Phase.DRAINING]
            if platform.gpu_quota is None and pool.version == 1:
                assert len(standing) == pool.desired
        counted = sum(fleet.outcomes.count(status) for status in RequestStatus)
        assert counted == len(fleet.outcomes)
    # Whoever comes or goes between two looks is seen for a quarter of a second too short at either end.
    seen_s = math.fsum(books.held_s.values())
    assert GPUS * seen_s <= fleet.gpu_seconds() + 1e-6
    everyone = sum(int(pool.replicas[-1].id.rpartition("-")[2]) + 1 for pool in fleet.cluster.pools() if pool.replicas)
    if everyone and all(pool.replicas for pool in fleet.cluster.pools()):
        assert fleet.gpu_seconds() <= GPUS * (seen_s + 0.5 * everyone) + 1e-6
    assert fleet.finish() == 0
    assert len(fleet.outcomes) == requests
    assert fleet.outcomes.count(RequestStatus.IN_SYSTEM) == 0


@hypothesis_settings(max_examples=25, deadline=None)
@given(worlds())
def test_after_all_that_every_pool_comes_to_what_was_asked_for_unless_there_is_no_room(
    world: tuple[SimulatedFleet, PlatformSettings, list[tuple[float, str, int]], int],
) -> None:
    fleet, platform, acts, _ = world
    for at, verb, number in acts:
        fleet.advance(max(at, fleet.clock.now()))
        act(fleet, verb, number)
    for pool in fleet.cluster.pools():
        fleet.cluster.resume(pool.key)
    for pool in fleet.cluster.pools():  # a rollout that goes on may give up replicas that never served at once
        for replica in pool.replicas:
            fleet.cluster.uncordon(pool.key, replica.id)
    for node in fleet.cluster.nodes():
        fleet.cluster.stop_avoiding(node)
    fleet.advance(1_500.0)
    limited = platform.gpu_stock or platform.gpu_quota or platform.spot or platform.nodes.max_nodes is not None
    for pool in fleet.cluster.pools():
        serving = [r for r in pool.replicas if r.phase in (Phase.READY, Phase.DRAINING)]
        assert len(pool.replicas) >= pool.desired or platform.gpu_quota is not None
        if not limited:
            assert len(serving) == len(pool.replicas) == pool.desired
            assert {r.revision for r in pool.replicas} <= {pool.revision}


DEAR = SMALL.model_copy(update={"name": "dear", "gpu": "h100", "usd_per_gpu_hour": 4.0})


def hostile(seed: int) -> SimulationSettings:
    """Two pools, the cheap one short of GPUs and on spot, starts that straggle and fail, nodes that are lost."""
    rng = np.random.default_rng(seed)
    platform = PlatformSettings.model_validate(
        {
            "startup": {"phase_p90_ratio": 1.3, "straggler_ratio": 0.1, "failure_ratio": 0.15, "keeps_image": True},
            "nodes": {"gpus_per_node": 2, "provisioning_s": float(rng.choice([0.0, 60.0])), "idle_s": 120.0},
            "gpu_stock": {SMALL.gpu: int(rng.integers(2, 6))},
            "gpu_quota": None if rng.random() < 0.5 else 12,
            "quota_refuses": str(rng.choice(["replicas", "scaling"])),
            "pools": {"cheap": {"spot": {"reclaims_per_hour": 4.0, "notice_s": float(rng.choice([30.0, 120.0]))}}},
        }
    )
    kinds = rng.choice(["node-loss", "reclaim", "stock-out", "crash", "hang"], 4)
    spot, more = {"stock-out": ":duration=240"}, {"crash": ":replica=1", "hang": ":replica=1"}
    faults = tuple(f"{kind}@{rng.integers(60, 900)}{spot.get(kind, more.get(kind, ''))}" for kind in kinds)
    pools = {
        f"m/{name}/unified": PoolSettings(profile=profile, min_replicas=1, max_replicas=12)
        for name, profile in (("cheap", SMALL), ("dear", DEAR))
    }
    return SimulationSettings(pools=pools, lead_time_s=45.0, platform=platform, faults=faults, seed=seed)


@pytest.mark.parametrize("seed", range(6))
def test_foresail_breaks_no_rule_where_gpus_run_out_nodes_are_reclaimed_and_starts_fail(seed: int) -> None:
    rng = np.random.default_rng(seed)
    load = RateTrace((20.0 + 14.0 * np.sin(np.arange(20) / 20 * 2 * np.pi + rng.uniform(0, 6))).round(1).tolist())
    settings, ticks = hostile(seed), list[Tick]()
    result = simulate(load, "foresail", settings, forecaster_chain(None, settings), on_tick=ticks.append)
    card = result.scorecard
    assert card.violations == ()
    assert card.completed + card.failed + card.dropped_in_flight == card.requests
    for tick in ticks:
        assert tick.record.fleet is not None
        for pool in tick.record.fleet.pools:
            assert pool.desired <= 12


# Findings


def test_a_dearer_pool_takes_over_what_the_cheap_one_has_no_gpus_for() -> None:
    pools = {
        f"m/{name}/unified": PoolSettings(profile=profile, min_replicas=1, max_replicas=20)
        for name, profile in (("cheap", SMALL), ("dear", DEAR))
    }
    platform = PlatformSettings(gpu_stock={SMALL.gpu: 2})
    settings = SimulationSettings(pools=pools, lead_time_s=45.0, platform=platform)
    ticks: list[Tick] = []
    simulate(RateTrace([8.0, 16.0] + [32.0] * 8), "foresail", settings, on_tick=ticks.append)
    fleet = ticks[-1].record.fleet
    assert fleet is not None
    cheap, dear = fleet.pools_of("m")
    assert len(cheap.serving) == 2
    assert len(dear.serving) >= 2  # 32 requests/s need four
    assert dear.weight > cheap.weight


def test_what_waits_for_gpus_is_given_up_when_the_load_falls_and_stops_no_healing() -> None:
    platform = PlatformSettings(gpu_stock={SMALL.gpu: 4})
    settings = quick_settings(lead_time_s=45.0, platform=platform, faults=("hang@420:replica=1",))
    ticks: list[Tick] = []
    load = RateTrace([16.0] + [38.0] * 8 + [12.0] * 8)
    result = simulate(load, "foresail", settings, forecaster_chain(None, settings), on_tick=ticks.append)
    assert result.scorecard.violations == ()
    rules = {reason.rule for tick in ticks if tick.record.decision for reason in tick.record.decision.reasons}
    assert "waiting for GPUs" in rules
    assert "breaker" not in rules
    acts = [(r.act, r.outcome) for tick in ticks for r in tick.record.results if r.act in ("cordon", "restart")]
    assert acts == [("cordon", "done"), ("restart", "done")]
    fleet = ticks[-1].record.fleet
    assert fleet is not None
    assert fleet.pools[0].desired <= 3
