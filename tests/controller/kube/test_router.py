"""Are shares of traffic read and changed as the route's other users and its gateways can live with?"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.kube.handshake import taken
from controller.adapters.kube.routes import SAME_SHARE, RouteKind, shares_of
from controller.errors import ActuationError, ObservationError, StalePlan
from policies.fleet import PoolKey, Role
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders import FixedClock
from tests.builders_kube_api import Fleet, caught_up
from tests.builders_routes import MERGE, Json, Routes, routing

EAST, WEST = PoolKey("m", "east"), PoolKey("m", "west")
POOLS = {EAST: "chat-east", WEST: "chat-west"}
HALVES = {EAST: 0.5, WEST: 0.5}
KINDS: tuple[RouteKind, ...] = ("HTTPRoute", "VirtualService")


def place(kind: RouteKind = "HTTPRoute", **more: Any) -> Json:
    backends = {"east": "chat-east", "west": "chat-west"}
    return {"kind": kind, "namespace": "prod", "name": "chat", "model": "m", "backends": backends, **more}


@pytest.fixture(name="api")
def _api() -> Iterator[RunningApi]:
    with running_api(bookmark_every_s=0.05) as api:
        yield api


def a_route(api: RunningApi, kind: RouteKind = "HTTPRoute", **weights: int) -> Routes:
    """Return a route with a ready endpoint behind both of its backends."""
    routes = Routes(api, kind)
    routes.make({f"chat-{name}": weight for name, weight in (weights or {"east": 1, "west": 1}).items()})
    routes.endpoints("chat-east", True)
    routes.endpoints("chat-west", False, True)
    return routes


def without_weights(route: Any) -> Any:
    if isinstance(route, dict):
        return {key: without_weights(value) for key, value in route.items() if key != "weight"}
    return [without_weights(value) for value in route] if isinstance(route, list) else route


@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_read_and_changed_and_nothing_else_is(api: RunningApi, tmp_path: Path, kind: RouteKind) -> None:
    routes = a_route(api, kind, east=3, west=1)
    with routing(api, tmp_path, place(kind)) as router:
        assert router.weights("m") == {EAST: 0.75, WEST: 0.25}
        before = routes.now()
        router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        assert router.weights("m") == pytest.approx({EAST: 0.6, WEST: 0.4})  # at once: never older than our own write
        after = routes.now()
        assert without_weights(after["spec"]) == without_weights(before["spec"])
        if kind == "HTTPRoute":
            assert after["spec"]["rules"][1] == before["spec"]["rules"][1]
        others = ("labels", "annotations", "finalizers", "ownerReferences")
        assert [after["metadata"].get(one) for one in others] == [before["metadata"].get(one) for one in others]
        assert routes.weights() == {"chat-east": 6000, "chat-west": 4000}


def test_what_the_route_has_already_is_not_written(api: RunningApi, tmp_path: Path) -> None:
    a_route(api)
    api.gateways.paused.set()
    with routing(api, tmp_path, place()) as router:
        before = api.version
        router.set_weights("m", HALVES)
        assert api.version == before


def test_the_next_step_waits_until_the_gateway_has_taken_the_last(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    with routing(api, tmp_path, place()) as router:
        router.weights("m")
        api.gateways.paused.set()
        router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        with pytest.raises(
            ActuationError, match=r"not in effect after \d+ s: gateway public has not looked"
        ) as refused:
            router.set_weights("m", {EAST: 0.7, WEST: 0.3})
        assert refused.value.where == "HTTPRoute prod/chat"
        assert routes.weights() == {"chat-east": 6000, "chat-west": 4000}
        whys = [note.why for note in router.notes()]
        assert [why for why in whys if "not in effect" not in why] == []
        assert len(whys) == 1
        api.gateways.paused.clear()
        api.settle()
        router.set_weights("m", {EAST: 0.7, WEST: 0.3})
        assert routes.weights() == {"chat-east": 7000, "chat-west": 3000}


def test_what_was_before_our_own_write_is_no_drift_while_the_watch_lags(api: RunningApi, tmp_path: Path) -> None:
    a_route(api)
    with routing(api, tmp_path, place()) as router:
        router.weights("m")
        api.fault(Fault(code=503, verbs=("list", "watch"), resources=("httproutes",)))
        api.drop_watches()
        router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        assert [note.why for note in router.notes() if "had set" in note.why] == []


def test_nothing_more_goes_where_nobody_is_ready(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    with routing(api, tmp_path, place()) as router:
        routes.set_ready("chat-west", False, False)
        before = routes.now()
        with pytest.raises(ActuationError, match="none of its endpoints is ready") as refused:
            router.set_weights("m", {EAST: 0.4, WEST: 0.6})
        assert refused.value.where == "Service prod/chat-west"
        assert routes.now() == before
        router.set_weights("m", {EAST: 1.0})  # away from there it may go
        assert routes.weights() == {"chat-east": 10_000, "chat-west": 0}


def test_a_service_that_is_not_there_gets_nothing(api: RunningApi, tmp_path: Path) -> None:
    routes = Routes(api)
    routes.make({"chat-east": 1, "chat-west": 1})
    routes.endpoints("chat-east", True)
    with routing(api, tmp_path, place()) as router:
        with pytest.raises(ActuationError, match="404"):
            router.set_weights("m", {EAST: 0.4, WEST: 0.6})
        service = {"metadata": {"name": "chat-west"}, "spec": {"type": "ExternalName", "externalName": "west.example"}}
        api.call("POST", "/api/v1/namespaces/prod/services", service)
        router.set_weights("m", {EAST: 0.4, WEST: 0.6})  # who stands behind that name is not for the cluster to tell
        assert routes.weights() == {"chat-east": 4000, "chat-west": 6000}


def edited(
    folder: Path, manager: str, operation: str = "Update", age_s: float = 300.0, **ownership: Any
) -> tuple[list[str], str]:
    """Return the notes on a route that ``manager`` has changed, and why we may not; empty where we did."""
    clock = FixedClock(1_790_000_000.0)
    with running_api(bookmark_every_s=0.05, clock=clock) as api:
        routes = a_route(api)
        clock.at += 3600.0
        if operation == "Apply":
            target = f"{routes.path}?fieldManager={manager}&force=true"
            body = routes.route({"chat-east": 9, "chat-west": 1})
            api.call("PATCH", target, body, "application/apply-patch+yaml")
        else:
            routes.edit({"chat-east": 9, "chat-west": 1}, manager)
        api.settle()
        clock.at += age_s
        with routing(api, folder, place(), clock=clock, ownership=ownership) as router:
            assert router.weights("m") == pytest.approx({EAST: 0.9, WEST: 0.1})
            notes, why = [note.why for note in router.notes()], ""
            try:
                router.set_weights("m", {EAST: 0.8, WEST: 0.2})
            except ActuationError as error:
                why = f"{error.what}: {error.remedy}"
            left = {"chat-east": 9, "chat-west": 1} if why else {"chat-east": 8000, "chat-west": 2000}
            assert routes.weights() == left
            return notes, why


def test_what_a_person_has_set_is_left_alone_for_a_while(tmp_path: Path) -> None:
    notes, why = edited(tmp_path, "kubectl-edit")
    assert why.startswith("somebody by kubectl-edit owns its weights: it is left alone until ")
    assert len(notes) == 1
    assert edited(tmp_path, "kubectl-edit", age_s=3601.0) == ([], "")
    assert edited(tmp_path, "kubectl-edit", take_over=["person"]) == ([], "")


@pytest.mark.parametrize(
    ("manager", "operation", "told"),
    [
        ("argocd-controller", "Apply", "Argo CD"),
        ("kustomize-controller", "Apply", "Flux"),
        ("helm", "Update", "Helm"),
        ("ci", "Apply", "ci"),
        ("foresail-other", "Update", "another Foresail"),
        ("rollouts-controller", "Update", "Argo Rollouts"),
        ("flagger", "Update", "Flagger"),
    ],
)
def test_another_owner_of_the_weights_is_told_and_left_alone(
    tmp_path: Path, manager: str, operation: str, told: str
) -> None:
    notes, why = edited(tmp_path, manager, operation, age_s=7200.0)
    assert why.startswith(f"{told} (field manager {manager}) owns its weights: ")
    assert [note.partition(" (")[0] for note in notes] == [told]
    overruled = edited(tmp_path, manager, operation, age_s=7200.0, take_over=["gitops", "foresail", "person"])
    goes_on = told in ("Argo Rollouts", "Flagger")  # it would write again at its next step
    assert overruled == ((notes, why) if goes_on else ([], ""))


def test_weights_that_somebody_else_changed_are_told(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    with routing(api, tmp_path, place()) as router:
        router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        api.settle()
        assert caught_up(api, router.reflectors.values())
        router.weights("m")
        assert router.notes() == ()
        routes.edit({"chat-east": 3, "chat-west": 1}, "kubectl-edit")
        api.settle()
        assert caught_up(api, router.reflectors.values())
        assert [note.why for note in router.notes()] == [
            "kubectl-edit made east 0.75, west 0.25 of the east 0.6, west 0.4 that we had set"
        ]


def test_shares_are_told_without_rights_to_change_them(tmp_path: Path) -> None:
    reads = Rule(("get", "list", "watch"), ("httproutes",), ("gateway.networking.k8s.io",))
    with running_api(bookmark_every_s=0.05) as api:
        routes = a_route(api)
        api.grant("reader", Subject("reader", (reads,)))
        with routing(api, tmp_path, place(), known_as="reader", timeout_s=0.5) as router:
            assert router.weights("m") == HALVES
            with pytest.raises(ActuationError, match=r"endpointslices.*403"):
                router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        assert routes.weights() == {"chat-east": 1, "chat-west": 1}


def test_nothing_is_sent_past_the_fence(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    before = routes.now()
    with routing(api, tmp_path, place(), fence=lambda _: "the lease is lost") as router:
        with pytest.raises(ActuationError, match="not sent: the lease is lost"):
            router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        assert routes.now() == before


def inference_pools(api: RunningApi, *names: str) -> None:
    path = "/apis/inference.networking.k8s.io/v1/namespaces/prod/inferencepools"
    for name in names:
        selector = {"matchLabels": {"app": name}}
        spec = {"selector": selector, "targetPorts": [{"number": 8000}], "endpointPickerRef": {"name": "epp"}}
        api.call("POST", path, {"metadata": {"name": name}, "spec": spec})


def test_behind_an_inference_pool_a_pod_has_to_be_ready(api: RunningApi, tmp_path: Path) -> None:
    fleet, routes = Fleet(api), Routes(api)
    fleet.deployment("chat-east", pods=1)
    group = {"group": "inference.networking.k8s.io", "kind": "InferencePool"}
    refs = [{**group, "name": name, "weight": 1} for name in ("chat-east", "chat-west")]
    inference_pools(api, "chat-east", "chat-west")
    api.call("POST", routes.path.rpartition("/")[0], routes.route({}, rules=[{"backendRefs": refs}]))
    api.settle()
    with routing(api, tmp_path, place()) as router:
        with pytest.raises(ActuationError, match="no pod behind it is ready") as refused:
            router.set_weights("m", {EAST: 0.4, WEST: 0.6})
        assert refused.value.where == "InferencePool prod/chat-west"
        router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        assert routes.weights() == {"chat-east": 6000, "chat-west": 4000}


def test_prefill_and_decode_behind_one_backend_move_together(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    stages = (Role.PREFILL, Role.DECODE)
    backends = {f"{name}/{role}": f"chat-{name}" for name in ("east", "west") for role in stages}
    east, west = ([PoolKey("m", name, role) for role in stages] for name in ("east", "west"))
    with routing(api, tmp_path, place(backends=backends)) as router:
        assert router.weights("m") == dict.fromkeys(east + west, 0.5)
        wanted = {east[0]: 0.6, west[0]: 0.4, east[1]: 0.4, west[1]: 0.6}
        router.set_weights("m", wanted)  # each place can take 0.4 of both
        assert routes.weights() == {"chat-east": 1, "chat-west": 1}
        router.set_weights("m", {**wanted, west[1]: 0.0, east[1]: 1.0})
        assert routes.weights() == {"chat-east": 10_000, "chat-west": 0}
        with pytest.raises(ActuationError, match="no backend is left that can serve all stages"):
            router.set_weights("m", {east[0]: 1.0, west[1]: 1.0})


def test_a_plan_made_of_other_shares_is_stale(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    with routing(api, tmp_path, place()) as router:
        router.weights("m")
        routes.edit({"chat-east": 9, "chat-west": 1}, manager="foresail")
        api.settle()
        with pytest.raises(StalePlan, match=r"east 0.9, west 0.1 by now"):
            router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        assert routes.weights() == {"chat-east": 9, "chat-west": 1}
        assert caught_up(api, router.reflectors.values())
        assert router.weights("m") == pytest.approx({EAST: 0.9, WEST: 0.1})
        router.set_weights("m", {EAST: 0.8, WEST: 0.2})
        assert routes.weights() == {"chat-east": 8000, "chat-west": 2000}


def test_a_conflict_is_a_stale_plan_and_is_not_tried_again(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    with routing(api, tmp_path, place()) as router:
        before = routes.now()
        api.fault(Fault(code=409, verbs=("patch",), resources=("httproutes",)))
        with pytest.raises(StalePlan):
            router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        assert api.faults.struck == 1
        assert routes.now() == before


def test_who_changes_the_route_in_between_keeps_their_change(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    with routing(api, tmp_path, place()) as router:
        ask = router.api.change

        def slow(change: Any) -> Json:
            routes.edit({"chat-east": 9, "chat-west": 1})
            return ask(change)

        router.api.change = slow  # type: ignore[method-assign]  # somebody is quicker than the wire
        with pytest.raises(StalePlan, match="changed since it was looked at"):
            router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        assert routes.weights() == {"chat-east": 9, "chat-west": 1}


def test_a_write_that_nobody_answered_is_looked_for_and_not_repeated(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    with routing(api, tmp_path, place()) as router:
        router.weights("m")
        api.fault(Fault(answer_lost=True, verbs=("patch",), times=1))
        with pytest.raises(ActuationError, match="it may have happened all the same"):
            router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        assert routes.weights() == {"chat-east": 6000, "chat-west": 4000}
        told: dict[PoolKey, float] = {}
        while not told:  # until a list that began after it was taken over
            with suppress(ObservationError):
                told = dict(router.weights("m"))
        assert told == pytest.approx({EAST: 0.6, WEST: 0.4})


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_behind_a_partition_nothing_is_told_and_nothing_set(api: RunningApi, tmp_path: Path, how: Any) -> None:
    a_route(api)
    quick = {"timeout_s": 0.3, "write_timeout_s": 0.3, "stale_after_s": 2.0, "longest_backoff_s": 0.2}
    with routing(api, tmp_path, place(), **quick) as router:
        router.weights("m")
        api.partition(how)
        with pytest.raises(ActuationError, match="does not answer"):
            router.set_weights("m", {EAST: 0.6, WEST: 0.4})
        told = ""
        while not told:
            try:
                router.weights("m")
            except ObservationError as error:
                told = error.what
        assert "nothing was heard of them for" in told
        api.heal()


def test_a_route_that_cannot_be_read_has_no_shares_rather_than_old_ones(api: RunningApi, tmp_path: Path) -> None:
    routes = a_route(api)
    with routing(api, tmp_path, place()) as router:
        router.weights("m")
        now = copy.deepcopy(routes.now()["spec"]["rules"])
        now[0]["backendRefs"] = now[0]["backendRefs"][:1]
        api.call("PATCH", routes.path, {"spec": {"rules": now}}, MERGE)
        assert caught_up(api, router.reflectors.values())
        with pytest.raises(ObservationError, match="no rule lists chat-east, chat-west"):
            router.weights("m")
        api.call("DELETE", routes.path)
        assert caught_up(api, router.reflectors.values())
        with pytest.raises(ObservationError, match="it is not there"):
            router.weights("m")
        assert [str(note) for note in router.notes()] == ["HTTPRoute prod/chat: it is not there"]


def test_a_model_without_a_route_has_no_shares_and_can_be_given_none(api: RunningApi, tmp_path: Path) -> None:
    a_route(api)
    with routing(api, tmp_path, place()) as router:
        with pytest.raises(ObservationError, match="no route is named for other"):
            router.weights("other")
        with pytest.raises(ActuationError, match="no route is named for other"):
            router.set_weights("other", {PoolKey("other", "east"): 1.0})
        with pytest.raises(ActuationError, match="m/new/unified is behind no backend"):
            router.set_weights("m", {EAST: 0.5, PoolKey("m", "new"): 0.5})
        router.set_weights("m", {**HALVES, PoolKey("m", "new"): 0.0})


TROUBLE = (
    Fault(code=409, verbs=("patch",), times=1),
    Fault(code=500, times=2),
    Fault(code=429, verbs=("get", "watch", "patch"), times=2, retry_after_s=1),
    Fault(reset=True, verbs=("get", "patch", "watch"), times=1),
    Fault(answer_lost=True, verbs=("patch",), times=1),
)


@pytest.mark.parametrize("seed", range(4))
def test_whatever_happens_each_change_is_one_step_that_was_planned(api: RunningApi, tmp_path: Path, seed: int) -> None:
    rng, routes = np.random.default_rng(seed), a_route(api)
    spec, done, refused = without_weights(routes.now()["spec"]), 0, 0
    with routing(api, tmp_path, place(), catch_up_s=0.5, longest_backoff_s=0.2) as router:
        for _ in range(30):
            match rng.integers(6):
                case 0:
                    routes.edit({"chat-east": int(rng.integers(1, 9)), "chat-west": 1}, "foresail")
                case 1:
                    api.fault(TROUBLE[rng.integers(len(TROUBLE))])
                case 2:
                    api.drop_watches()
                case 3:
                    api.compact()
            if rng.random() < 0.7:
                api.settle()
            share = round(float(rng.uniform(0.05, 0.95)), 3)
            before, wanted = routes.now(), {EAST: share, WEST: 1 - share}
            try:
                told = router.weights("m")
            except ObservationError:
                told = {}
            why: ActuationError | None = None
            try:
                router.set_weights("m", wanted)
            except ActuationError as error:
                why = error
            after = routes.now()
            assert without_weights(after["spec"]) == spec
            if after["metadata"]["generation"] == before["metadata"]["generation"]:
                refused += why is not None
                continue
            assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
            assert not taken("HTTPRoute", before)  # the gateway had taken the step before
            assert not told or told == pytest.approx(shares_of("HTTPRoute", before, POOLS), abs=SAME_SHARE)
            assert shares_of("HTTPRoute", after, POOLS) == pytest.approx(wanted, abs=SAME_SHARE)
            assert why is None or "it may have happened all the same" in why.what
            done += why is None
    assert done > 3
    assert refused > 3
