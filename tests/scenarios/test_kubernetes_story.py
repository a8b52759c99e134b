"""A day of a fleet on Kubernetes, from its discovery to a failover, as its operator would tell it.

The controller is put together as ``foresail run`` does it; what it reads and writes goes through the API over HTTP, by
the official client's configuration. Requests are a fluid, and time is virtual.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from controller.adapters.sql_audit import SqlAudit
from forecasting.seasonal_naive import SeasonalNaiveForecaster
from forecasting.series import LoadSeries
from policies.fleet import PoolKey
from simulations.kubernetes_api.running import running_api
from tests.builders import AT, FixedClock, settings
from tests.builders_kube_rig import BOOKMARKS_S, Operated, kube_settings
from tests.builders_pod_world import BAD_IMAGE, NAMESPACE, PodWorld

A100, H100 = PoolKey("llama", "a100"), PoolKey("llama", "h100")
DAY_S, STEP_S, LEAD_S = 86_400.0, 15.0, 240.0
QUIET, BUSY = 8.0, 40.0
RISE_S, FALL_S = 1800.0, 5400.0
"""The load rises and falls so long after ``AT``, every day."""


def load_at(at: float) -> float:
    """Requests per second of the world: the same every day."""
    since_s = (at - AT) % DAY_S
    return BUSY if RISE_S <= since_s < FALL_S else QUIET


class Busy(PodWorld):
    """The world with that load."""

    def _arrive(self) -> None:
        self.requests_per_s = load_at(self.clock.at)
        super()._arrive()


def three_days() -> LoadSeries:
    """The load that the metrics store has on record."""
    at = AT + 1300.0 - 3 * DAY_S + STEP_S * np.arange(round(3 * DAY_S / STEP_S))
    rates = np.array([load_at(instant) for instant in at])
    return LoadSeries(float(at[0]), STEP_S, np.stack([rates, 1000.0 * rates, 200.0 * rates], axis=1))


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Operated]:
    clock = FixedClock(AT)
    with running_api(clock=clock, bookmark_every_s=BOOKMARKS_S) as api:
        world = Busy(clock=clock, api=api, lead_s=LEAD_S, drain_s=30.0)
        world.begin(A100, H100, replicas=4, nodes=16)
        with closing(
            Operated(
                world,
                tmp_path,
                settings(A100, H100, least=2, most=20),
                kube_settings(world, tmp_path, nodes=True),
                history={A100.model: three_days()},
                champion=SeasonalNaiveForecaster(DAY_S),
            )
        ) as operated:
            yield operated


def test_a_day_of_a_fleet_on_kubernetes(story: Operated) -> None:
    world = story.world

    # Two Deployments are discovered by their labels, with their shares of the route. Nobody is busy.
    fleet = story.tick().fleet
    assert fleet is not None
    assert [(str(pool.key), pool.desired, pool.weight) for pool in fleet.pools] == [
        ("llama/a100/unified", 4, 1.0),
        ("llama/h100/unified", 4, 0.0),
    ]

    # What is too many goes. The last days say when the load will rise: replicas are asked for, and serve, by then.
    rise_at = AT + RISE_S
    assert story.run(rise_at - world.clock.at - LEAD_S, until=lambda: desired(world) < 8)
    few_at, few = world.clock.at, desired(world)
    assert story.run(rise_at - LEAD_S - world.clock.at, until=lambda: desired(world) > few)
    assert world.clock.at < rise_at - LEAD_S, "asked for too late to be there in time"
    story.run(rise_at - story.policy.tick_s - world.clock.at)
    assert world.serving(A100) + world.serving(H100) > few
    assert world.requests_per_s == QUIET, f"the load rose before {rise_at}, after {few_at}"
    story.run(600.0)
    busy = desired(world)
    assert world.requests_per_s == BUSY
    assert world.serving(A100) + world.serving(H100) == busy

    # The load falls: pods are given up, the pool shrinks, and those that go end what they have.
    assert story.run(FALL_S - RISE_S, until=lambda: desired(world) <= few)
    story.run(60.0)
    assert world.serving(A100) + world.serving(H100) == desired(world)

    # An engine hangs, its process alive: it is taken out of traffic and evicted, and another one comes in its place.
    story.run(900.0)
    sick = next(engine for engine in world.of(A100) if engine.serving)
    sick.hung = True
    assert story.run(600.0, until=lambda: bool(story.done("restart")))
    assert [subject for _, subject, _ in story.done("cordon")] == [A100.replica(sick.id)]
    assert [subject for _, subject, _ in story.done("restart")] == [A100.replica(sick.id)]
    story.run(LEAD_S + 120.0)
    assert sick.id not in world.engines
    assert world.serving(A100) >= 2

    # A bad image is rolled out: its rollout is paused, and the pool given back the revision on record as good.
    story.run(900.0)
    world.release(A100, BAD_IMAGE)
    assert story.run(1800.0, until=lambda: bool(story.done("roll back")))
    assert world.image(A100) == "vllm:1"
    story.run(2 * LEAD_S + 300.0)
    assert world.serving(A100) >= 2
    assert not any(engine.error_ratio for engine in world.of(A100))
    assert len(story.done("roll back")) == 1

    # All pods of a pool are lost, and no new one starts: its traffic goes to the other by the weights of the HTTPRoute.
    assert 0.0 < world.shares[A100] < 1.0
    for engine in world.of(A100):
        world.api.kubelet.troubles.pods[f"{NAMESPACE}/{engine.id}"] = "failed"
    world.api.kubelet.troubles.images["vllm:1"] = "stuck"
    assert story.run(300.0, until=lambda: world.shares[H100] == 1.0)

    # All of it is told in the cluster, and on record: a chain that holds, made of decisions that can be explained.
    story.close()
    told = {(event["involvedObject"]["kind"], event["reason"]) for event in world.events()}
    assert told >= {
        ("Deployment", "ScaledDown"),
        ("Deployment", "ScaledUp"),
        ("Pod", "ReplicaCordoned"),
        ("Pod", "ReplicaRestarted"),
        ("Deployment", "RolloutPaused"),
        ("Deployment", "RolledBack"),
        ("HTTPRoute", "TrafficShifted"),
    }
    with closing(SqlAudit.open_existing(story.folder / "audit.db")) as log:
        chain = log.verify()
        decided = sum("decision" in entry.record for entry in log.entries())
    assert chain.broken_at == ""
    assert decided == len(story.records)


def desired(world: PodWorld) -> int:
    """Replicas that both pools are to have."""
    return sum(int(world.deployment(key)["spec"]["replicas"]) for key in (A100, H100))
