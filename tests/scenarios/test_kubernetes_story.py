"""A day of a fleet on Kubernetes, from its discovery to a failover, as its operator would tell it.

The controller is put together as ``foresail run`` does it; what it reads and writes goes through the API over HTTP, by
the official client's configuration. Requests are a fluid, and time is virtual.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from forecasting.series import LoadSeries
from policies.fleet import Phase, PoolKey
from policies.settings import PolicySettings
from simulations.kubernetes_api.running import running_api
from tests.builders import AT, FixedClock, settings
from tests.builders_kube_rig import BOOKMARKS_S, Operated, kube_settings
from tests.builders_kube_world import BAD_IMAGE, KubeWorld, place

A100, H100 = PoolKey("llama", "a100"), PoolKey("llama", "h100")
DAY_S, STEP_S, LEAD_S = 86_400.0, 15.0, 240.0
QUIET, BUSY = 8.0, 40.0
RISE_S, FALL_S = 1800.0, 5400.0
"""The load rises and falls so long after ``AT``, every day."""


def load_at(at: float) -> float:
    """Requests per second of the world: the same every day."""
    since_s = (at - AT) % DAY_S
    return BUSY if RISE_S <= since_s < FALL_S else QUIET


class Busy(KubeWorld):
    """The world with that load."""

    def _arrive(self) -> None:
        self.requests_per_s = load_at(self.clock.at)
        super()._arrive()


def three_days() -> LoadSeries:
    """The load that the metrics store has on record."""
    at = AT + 1300.0 - 3 * DAY_S + STEP_S * np.arange(round(3 * DAY_S / STEP_S))
    rates = np.array([load_at(instant) for instant in at])
    return LoadSeries(float(at[0]), STEP_S, np.stack([rates, 1000.0 * rates, 200.0 * rates], axis=1))


def a_policy() -> PolicySettings:
    return settings(A100, H100, least=2, most=20)


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Operated]:
    clock = FixedClock(AT)
    with running_api(clock=clock, bookmark_every_s=BOOKMARKS_S) as api:
        world = Busy(clock=clock, api=api, lead_s=LEAD_S, drain_s=30.0)
        world.begin(A100, H100, replicas=4, nodes=16)
        platform = kube_settings(world, tmp_path, nodes=True)
        operated = Operated(world, tmp_path, a_policy(), platform, history={A100.model: three_days()})
        yield operated
        operated.close()


def test_a_day_of_a_fleet_on_kubernetes(story: Operated) -> None:
    world = story.world

    # Two Deployments are discovered by their labels, with their share of the route.
    record = story.tick()
    assert record.fleet is not None
    assert [(str(pool.key), pool.desired, pool.weight) for pool in record.fleet.pools] == [
        ("llama/a100/unified", 4, 1.0),
        ("llama/h100/unified", 4, 0.0),
    ]

    # The load is forecast from three days on record, and replicas are there before it comes.
    rise_at = AT + RISE_S
    story.run(rise_at - world.clock.at)
    ups = story.done("scale")
    assert ups, "nothing was asked for before the load rose"
    assert ups[0][0] < rise_at - LEAD_S, "asked for too late to be there in time"
    assert world.serving(A100) + world.serving(H100) > 8

    # It falls again: replicas are drained, and the pool shrinks.
    busiest = story.cluster.pools()[0].desired + story.cluster.pools()[1].desired
    story.run(FALL_S - RISE_S + 2700.0, until=lambda: world.clock.at > AT + FALL_S and _wanted(world) < busiest)
    assert _wanted(world) < busiest

    # An engine hangs: its pod is evicted, and another one comes in its place.
    sick = next(engine for engine in world.of(A100) if engine.serving)
    sick.hung = True
    assert story.run(900.0, until=lambda: bool(story.done("restart")))
    assert story.done("restart")[0][1] == str(A100.replica(sick.id)) or sick.id in story.done("restart")[0][1]
    story.run(LEAD_S + 120.0)
    assert sick.id not in world.engines

    # A bad image is rolled out: the pool is given back the revision that is on record as good.
    story.run(900.0)
    world.release(A100, BAD_IMAGE)
    assert story.run(1800.0, until=lambda: bool(story.done("roll back")))
    assert world.image(A100) == "vllm:1"
    story.run(2 * LEAD_S + 300.0)
    assert not any(engine.error_ratio for engine in world.of(A100))

    # The nodes of a whole pool are lost: its traffic goes to the other one, by the weights of the HTTPRoute.
    before = world.shares[H100]
    for engine in world.of(A100):
        world.api.kubelet.troubles.pods[f"prod/{engine.id}"] = "failed"
    world.api.kubelet.troubles.images["vllm:1"] = "stuck"
    assert story.run(900.0, until=lambda: world.shares[H100] > 0.99)
    assert before < 0.99
    assert any(engine.phase is Phase.READY for engine in world.of(H100))

    # All of that is told in the cluster, and on record.
    told = {event["reason"] for event in world.events()}
    assert {"ScaledUp", "ScaledDown", "ReplicaRestarted", "RolledBack", "TrafficShifted"} <= told
    assert story.log.verify() == "" if hasattr(story.log, "verify") else True
    assert world.api.call("GET", place("pods"))["items"] != []


def _wanted(world: KubeWorld) -> int:
    return sum(int(world.deployment(key)["spec"]["replicas"]) for key in (A100, H100))
