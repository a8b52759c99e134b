"""Do people who look at an object learn what was done to it or refused, counted, and does no tick wait for that?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from structlog.testing import capture_logs

from controller.actuation import Actuator
from controller.adapters.kube.cluster import KubernetesView
from controller.adapters.kube.event_book import BURST, MOST_WAITING, TOKEN_S
from controller.adapters.kube.events import KubernetesEvents
from controller.adapters.kube.notices import MOST_BYTES
from controller.adapters.system_clock import SystemClock
from controller.forecasts import ForecastSettings, Horizon, LoadForecasts
from controller.loop import ControlLoop
from controller.modes import Mode, ModeSettings
from controller.plans import Part
from controller.ports import FleetMetrics, Outcome, Sources
from forecasting.forecaster import FallbackForecaster
from policies.decide import Foresail
from policies.decisions import (
    AvoidNode,
    CordonReplica,
    Diagnosis,
    Page,
    PauseRollout,
    Reason,
    RestartReplica,
    RollBack,
    ScalingPlan,
    TrafficPlan,
)
from policies.fleet import PoolKey, PoolState
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import (
    FakeCluster,
    FakeMetrics,
    FakeRouter,
    FixedClock,
    ListAudit,
    ListNotifier,
    demand,
    metrics,
    settings,
)
from tests.builders_kube import T0
from tests.builders_kube_api import MERGE, Fleet, settings_for
from tests.builders_kubernetes_api import clients
from tests.builders_ticks import tick_of

KEY, SPARE = PoolKey("llama", "llama"), PoolKey("llama", "spare")
POD = "llama-abc-0"
SICK = Diagnosis("F7", POD, KEY, T0, ("progress",), "it makes no progress", name="hang")
UP = ScalingPlan(KEY, 2, 5, 1)
ROUTE = {"namespace": "prod", "name": "chat", "model": "llama", "backends": {"llama": "llama", "spare": "spare"}}
TICK_S = 15.0
HPA = "/apis/autoscaling/v2/namespaces/prod/horizontalpodautoscalers"


def record(at: float, *parts: Part, outcome: Outcome = "done", detail: str = "", why: tuple[Reason, ...] = ()) -> Any:
    """Return a tick that decided ``parts`` for the reasons ``why``, and what became of all of them."""
    return tick_of(at, *parts, outcome=outcome, detail=detail, why=why, diagnoses=(SICK,), pools=(KEY, SPARE))


@dataclass
class Place:
    """A cluster with one Deployment, and the Events of it. Time passes when it is told to."""

    api: RunningApi
    view: KubernetesView
    events: KubernetesEvents
    clock: FixedClock

    def tick(self, *parts: Part, **more: Any) -> float:
        """Let a tick pass that decided this; return how long the sender would wait."""
        self.events.saw(record(self.clock.at, *parts, **more))
        return self.later(TICK_S)

    def later(self, seconds: float) -> float:
        wait_s = self.events.round()
        self.clock.at += seconds
        return wait_s

    def told(self, name: str = "llama", namespace: str = "prod") -> list[Any]:
        """Return what the official client lists of an object, the oldest first."""
        with clients(self.api) as client:
            found = client.core.list_namespaced_event(namespace, field_selector=f"involvedObject.name={name}")
        return sorted(found.items, key=lambda event: (event.first_timestamp, event.reason))


@contextmanager
def _placed(api: RunningApi, folder: Path, **more: Any) -> Iterator[Place]:
    clock = FixedClock(T0)
    read = settings_for(api, folder, **{"routes": [ROUTE], "write_timeout_s": 0.5, **more})
    view = KubernetesView(read, SystemClock().elapsed, np.random.default_rng(3), now=clock.now)
    view.start()
    try:
        view.pools()
        yield Place(api, view, KubernetesEvents(read, view, clock.now, "foresail-0"), clock)
    finally:
        view.close()


@pytest.fixture(name="api")
def _api() -> Iterator[RunningApi]:
    with running_api(bookmark_every_s=0.05) as api:
        Fleet(api).deployment()
        yield api


@pytest.fixture(name="place")
def _place(api: RunningApi, tmp_path: Path) -> Iterator[Place]:
    with _placed(api, tmp_path) as place:
        yield place


def test_what_was_done_is_told_of_the_object_that_it_was_done_to(place: Place) -> None:
    because = Reason("predictive target", "llama", 2.0, 5.0, "demand will be 40 requests/s")
    place.tick(UP, why=(because,))
    (scaled,) = place.told()
    about = scaled.involved_object
    uid = place.api.call("GET", "/apis/apps/v1/namespaces/prod/deployments/llama")["metadata"]["uid"]
    assert (about.api_version, about.kind, about.namespace, about.uid) == ("apps/v1", "Deployment", "prod", uid)
    assert (scaled.type, scaled.reason, scaled.count) == ("Normal", "ScaledUp", 1)
    assert scaled.message.startswith("Scale from 2 to 5 replicas: predictive target")
    assert "demand will be 40 requests/s" in scaled.message
    assert (scaled.reporting_component, scaled.reporting_instance) == ("foresail", "foresail-0")
    assert scaled.first_timestamp.timestamp() == scaled.last_timestamp.timestamp() == T0


def test_every_act_is_told_where_people_look_for_it(place: Place) -> None:
    place.tick(
        CordonReplica(POD, KEY, "F7"),
        RestartReplica(POD, KEY, "F7"),
        RollBack(KEY, "abc", "xyz", "F9"),
        PauseRollout(KEY, "F9"),
        AvoidNode("node-a", "F2"),
        TrafficPlan("llama", {KEY: 0.25, SPARE: 0.75}),
        ScalingPlan(KEY, 5, 3, 1),
        Page(str(KEY), "F9", "the rollout stands still"),
    )
    assert {(e.involved_object.kind, e.reason) for e in place.told(POD)} == {
        ("Pod", "ReplicaCordoned"),
        ("Pod", "ReplicaRestarted"),
    }
    assert all("it makes no progress" in event.message for event in place.told(POD))
    assert {event.reason: event.type for event in place.told()} == {
        "RolledBack": "Normal",
        "RolloutPaused": "Normal",
        "ScaledDown": "Normal",
        "HumanCalled": "Warning",
    }
    (shifted,) = place.told("chat")
    assert (shifted.involved_object.api_version, shifted.reason) == ("gateway.networking.k8s.io/v1", "TrafficShifted")
    assert shifted.message == "Share traffic as llama 25%, spare 75%"
    (avoided,) = place.told("node-a", "default")
    assert (avoided.involved_object.uid, avoided.involved_object.namespace, avoided.reason) == (
        "node-a",
        None,
        "NodeAvoided",
    )


def test_what_is_held_at_every_tick_is_one_event_whose_count_rises(place: Place) -> None:
    for number in range(40):
        place.tick(ScalingPlan(KEY, 2, 3 + number, 1), outcome="held", detail="mode recommend")
    place.later(TOKEN_S)
    place.later(0.0)
    (held,) = place.told()
    assert (held.reason, held.type, held.count) == ("HeldByMode", "Normal", 40)
    assert held.message == "Would scale from 2 to 42 replicas; held: mode recommend"
    assert held.first_timestamp.timestamp() == T0
    assert held.last_timestamp.timestamp() == T0 + 39 * TICK_S


@pytest.mark.parametrize(
    ("outcome", "detail", "reason"),
    [
        ("held", "kill switch", "HeldByKillSwitch"),
        ("held", "maintenance: upgrade until 12:00", "HeldForMaintenance"),
        ("held", "waits for approval 17 (until 12:00)", "HeldForApproval"),
        ("held", "the plan is stale", "HeldAsStale"),
        ("held", "not on record: the disk is full", "HeldUnrecorded"),
        ("held", "another replica leads", "Held"),
        ("failed", "put deployments/scale: HTTP 409", "ScaleFailed"),
    ],
)
def test_what_was_not_done_is_told_with_why(place: Place, outcome: Outcome, detail: str, reason: str) -> None:
    place.tick(UP, outcome=outcome, detail=detail)
    (event,) = place.told()
    assert event.reason == reason
    assert detail in event.message
    assert event.type == ("Warning" if outcome == "failed" else "Normal")


def test_whoever_only_looks_is_told_nothing_of_acts(place: Place) -> None:
    place.tick(UP, outcome="held", detail="mode observe")
    assert place.told() == []


def test_a_withheld_plan_is_told_when_that_comes_up_and_again_after_it_was_gone(place: Place) -> None:
    for left in (7, 6, 5):  # figures that move make no other
        place.tick(why=(Reason("GPU budget", str(KEY), 9, left, f"budget of 6{left} for all pools"),))
    (event,) = place.told()
    assert (event.reason, event.type, event.count) == ("ScaleLimited", "Warning", 1)
    assert event.message == "GPU budget (9 -> 7): budget of 67 for all pools"
    place.tick()
    place.tick(why=(Reason("GPU budget", str(KEY), 9, 4, "budget of 64 for all pools"),))
    assert [event.count for event in place.told()] == [2]


def test_a_refusal_about_a_replica_or_a_model_is_told_of_its_pod_or_its_workload(place: Place) -> None:
    place.tick(
        why=(
            Reason("disruption budget", POD, 0, 0, "F7 hang; another replica is under repair"),
            Reason("out of room", "llama", 9, 6, "3 more replicas would be needed"),
            Reason("rate limit", str(KEY), 9, 6, "of no interest to whoever looks at the object"),
            Reason("bounds", str(KEY), 0, 1, "bounds are 1 to 8"),
        )
    )
    assert [event.reason for event in place.told(POD)] == ["HealingRefused"]
    assert [event.reason for event in place.told()] == ["OutOfRoom"]


def test_a_message_is_short_and_keeps_secrets(place: Place) -> None:
    place.tick(UP, outcome="failed", detail="no way to https://me:s3cret@api/?token=s3cret " + "ß" * 2000)
    (event,) = place.told()
    assert "s3cret" not in event.message
    assert MOST_BYTES - 4 <= len(event.message.encode()) <= MOST_BYTES


def test_one_object_does_not_flood_and_leaves_room_for_others(place: Place) -> None:
    parts = [ScalingPlan(KEY, number, number + 1, 1) for number in range(30)]
    for plan in parts:
        place.events.saw(record(place.clock.at, plan))
        place.events.round()
    assert len(place.told()) == BURST
    place.tick(CordonReplica(POD, KEY, "F7"))
    assert len(place.told(POD)) == 1
    for _ in range(30):
        place.later(TOKEN_S)
    assert len(place.told()) == len(parts)


def test_while_the_server_is_away_events_wait_in_bounds_and_no_tick_does(place: Place) -> None:
    place.api.partition("reset")
    for number in range(MOST_WAITING + 40):
        place.tick(ScalingPlan(KEY, number, number + 1, 1))
    assert len(place.events.book.waiting) == MOST_WAITING
    place.api.heal()
    assert place.later(120.0) > 0.0  # it rests
    place.later(0.0)
    assert place.told()


def test_what_was_not_answered_is_not_counted_twice(place: Place) -> None:
    place.api.fault(Fault(answer_lost=True, verbs=("create", "patch"), resources=("events",), times=1))
    place.tick(UP, outcome="held", detail="mode recommend")
    place.tick(UP, outcome="held", detail="mode recommend")
    place.later(TOKEN_S)
    place.later(0.0)
    assert [event.count for event in place.told()] == [2]
    place.api.fault(Fault(answer_lost=True, verbs=("patch",), resources=("events",), times=1))
    place.tick(UP, outcome="held", detail="mode recommend")
    place.later(TOKEN_S)
    place.later(0.0)
    assert [event.count for event in place.told()] == [3]


def test_events_that_others_change_or_that_are_over_are_gone_on_with(place: Place) -> None:
    place.tick(UP, outcome="held", detail="mode recommend")
    (event,) = place.told()
    path = f"/api/v1/namespaces/prod/events/{event.metadata.name}"
    place.api.call("PATCH", path, {"count": 9}, MERGE)
    place.tick(UP, outcome="held", detail="mode recommend")
    assert [event.count for event in place.told()] == [10]
    place.api.call("DELETE", path)  # a server keeps them for an hour
    place.tick(UP, outcome="held", detail="mode recommend")
    assert [event.count for event in place.told()] == [1]


def test_after_a_restart_of_ours_the_same_event_is_gone_on_with(api: RunningApi, tmp_path: Path) -> None:
    for _ in range(2):
        with _placed(api, tmp_path) as place:
            place.tick(UP, outcome="held", detail="mode recommend")
    assert [event.count for event in place.told()] == [2]


def test_after_a_restart_of_the_server_events_are_told_there(tmp_path: Path) -> None:
    with ExitStack() as old:
        first = old.enter_context(running_api(bookmark_every_s=0.05))
        Fleet(first).deployment()
        with _placed(first, tmp_path, longest_backoff_s=0.1) as place:
            place.tick(UP, outcome="held", detail="mode recommend")
            assert [event.count for event in place.told()] == [1]
            old.close()
            place.tick(UP, outcome="held", detail="mode recommend")
            with running_api(port=int(first.url.rpartition(":")[2])) as place.api:
                Fleet(place.api)  # all that was there is lost
                place.later(TOKEN_S)
                place.later(0.0)
                assert [event.count for event in place.told()] == [1]


def test_without_the_right_nothing_is_sent_and_that_is_told_once(api: RunningApi, tmp_path: Path) -> None:
    api.grant("some", Subject("foresail", (Rule(("get", "list", "watch"), ("*",), ("*",)),)))
    with _placed(api, tmp_path, known_as="some") as place, capture_logs() as logs:
        for number in range(5):
            place.tick(ScalingPlan(KEY, number, number + 1, 1))
        assert not place.events.book.waiting
        api.grant("some", Subject("foresail", (Rule(("*",), ("*",), ("*",)),)))
        place.tick(UP)
        assert api.call("GET", "/api/v1/namespaces/prod/events")["items"] == []
        place.later(600.0)
        place.tick(UP)  # tried once more
        assert len(api.call("GET", "/api/v1/namespaces/prod/events")["items"]) == 1
    (told,) = [line for line in logs if line["event"] == "events not sent"]
    assert "grant it: a Role in namespace prod" in told["why"]


def test_nothing_is_sent_while_the_kill_switch_is_on(api: RunningApi, tmp_path: Path) -> None:
    with _placed(api, tmp_path) as place:
        on = [True]
        silent = KubernetesEvents(settings_for(api, tmp_path), place.view, place.clock.now, silenced=lambda: on[0])
        silent.saw(record(T0, UP))
        assert silent.round() > 0.0
        assert place.told() == []
        on[0] = False
        silent.round()
        assert [event.reason for event in place.told()] == ["ScaledUp"]


def test_where_events_are_switched_off_nothing_is_kept(api: RunningApi, tmp_path: Path) -> None:
    with _placed(api, tmp_path, events=False) as place:
        place.events.start()
        place.tick(UP)
        assert place.told() == []
        place.events.close()


class Scaling(FakeCluster):
    """Looks by a view and scales as an operator would."""

    def __init__(self, clock: FixedClock, view: KubernetesView, api: RunningApi) -> None:
        super().__init__(clock)
        self.view, self.api = view, api

    def pools(self) -> tuple[PoolState, ...]:
        return self.view.pools()

    def scale(self, pool: PoolKey, replicas: int, version: int, retire_first: tuple[str, ...] = ()) -> None:
        path = f"/apis/apps/v1/namespaces/prod/deployments/{pool.pool}/scale?fieldManager=foresail"
        self.api.call("PATCH", path, {"spec": {"replicas": replicas}}, MERGE)


def _loop(place: Place) -> ControlLoop:
    """Return the loop over what the view sees, under a load that needs many more replicas."""
    replicas = {f"llama-abc-{number}": metrics(T0) for number in range(2)}
    seen = FakeMetrics(FleetMetrics(demand={"llama": demand(requests_per_s=200.0)}, replicas=replicas))
    router = FakeRouter({KEY: 1.0})
    cluster = Scaling(place.clock, place.view, place.api)
    policy = settings(KEY)
    actuator = Actuator(place.clock, cluster, router, ListNotifier(), ModeSettings(scaling=Mode.AUTO), lambda: False)
    forecasts = LoadForecasts(FallbackForecaster(()), policy.tick_s, ForecastSettings())
    sources, horizon = Sources(place.clock, seen, cluster, router), Horizon(policy.lead_time, policy.tick_s)
    loop = ControlLoop(sources, ListAudit(), actuator, forecasts, horizon, Foresail(policy))
    loop.witness = place.events
    return loop


def test_a_tick_that_scales_tells_so_by_a_thread_of_its_own(place: Place) -> None:
    place.events.start()
    done = _loop(place).tick()
    assert [(result.act, result.outcome) for result in done.results] == [("scale", "done")]
    place.events.close()
    (event,) = [one for one in place.told() if one.reason == "ScaledUp"]
    assert event.message.startswith("Scale from 2 to ")


def test_an_owner_is_told_with_what_to_do_about_it(place: Place) -> None:
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": "llama"}
    body = {"metadata": {"name": "other"}, "spec": {"scaleTargetRef": ref, "maxReplicas": 9}}
    place.api.call("POST", HPA, body)
    for several in place.view.reflectors.values():
        assert several[0].store.wait_for(str(place.api.version), 8.0)
    loop = _loop(place)
    for _ in range(3):
        assert loop.tick().results == ()
        place.later(TICK_S)
    (event,) = [one for one in place.told() if one.reason == "ScaleRefused"]
    assert (event.type, event.count) == ("Warning", 1)
    assert event.message == (
        "Other owner: HorizontalPodAutoscaler prod/other owns the replica count: left alone; "
        "delete or pause HorizontalPodAutoscaler prod/other: it goes on writing"
    )


def test_a_tick_does_not_wait_for_a_server_that_hangs(api: RunningApi, tmp_path: Path) -> None:
    with _placed(api, tmp_path, write_timeout_s=60.0) as place:
        api.fault(Fault(hang=True, resources=("events",)))
        place.events.start()
        loop = _loop(place)
        for _ in range(20):
            loop.tick()
        place.events.close()
        waiting = list(place.events.book.waiting.values())
        assert waiting
        assert not any(one.tried for one in waiting)  # the first is still under way
