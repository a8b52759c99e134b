"""Does the lease in the API server keep two apart, whatever the server, the network or a stranger makes of it?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from kubernetes.client import CoordinationV1Api

from controller.adapters.kube.changes import Change
from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.lease import LEASES, KubernetesLease, candidate
from controller.adapters.kube.questions import Question
from controller.adapters.kube.settings import KubernetesSettings, LeasePlace
from controller.adapters.system_clock import SystemClock
from controller.errors import ActuationError, ForesailError, ObservationError, StalePlan
from controller.leadership import MOST_DURATION_S, Leadership, Lease
from simulations.kubernetes_api.access import ANYBODY, Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kube_api import MERGE, settings_for
from tests.builders_kubernetes_api import clients

PATH = "/apis/coordination.k8s.io/v1/namespaces/default/leases"
AT = 1_790_000_000.25
PLACE = LeasePlace(duration_s=15.0, renew_within_s=1.0, retry_s=0.4)
"""Answers are waited for 0.3 s: nothing is told of how long others wait, which a clock of the test says."""


@dataclass
class Cluster:
    """The API server, and candidates that go by a clock which passes when the test says so."""

    api: RunningApi
    folder: Path
    at_s: float = 0.0
    stores: list[KubernetesLease] = field(default_factory=list)

    def settings(self, **more: Any) -> KubernetesSettings:
        return settings_for(self.api, self.folder, write_timeout_s=0.5, **{"lease": PLACE, **more})

    def store(self, **more: Any) -> KubernetesLease:
        self.stores.append(KubernetesLease(self.settings(**more), SystemClock().elapsed))
        return self.stores[-1]

    def candidate(self, name: str) -> Leadership:
        return Leadership(self.store(), PLACE, name, lambda: AT + self.at_s, lambda: self.at_s)

    def write(self, **spec: Any) -> None:
        """Write the lease as a stranger would, past every rule."""
        self.api.call("POST", PATH, {"metadata": {"name": "foresail"}, "spec": spec})

    @property
    def spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.api.call("GET", f"{PATH}/foresail")["spec"]
        return spec


@dataclass
class Fence:
    """Lets one write through."""

    asked: list[float] = field(default_factory=list)

    def __call__(self, needs_s: float) -> str:
        self.asked.append(needs_s)
        return "two leads" if len(self.asked) > 1 else ""


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_api() as api:
        cluster = Cluster(api, tmp_path)
        yield cluster
        for store in cluster.stores:
            store.close()


def test_what_is_written_is_a_lease_as_everybody_knows_it(cluster: Cluster) -> None:
    store = cluster.store()
    assert store.read() is None
    made = store.write(Lease("one", 15.0, AT, AT))
    assert (made.holder, made.duration_s, made.acquired_at, made.renewed_at) == ("one", 15.0, AT, AT)
    assert store.read() == made
    renewed = store.write(replace(made, renewed_at=AT + 2.0))
    assert renewed == replace(made, renewed_at=AT + 2.0, version=renewed.version)
    with clients(cluster.api) as known:
        shown = CoordinationV1Api(known.connection).read_namespaced_lease("foresail", "default")
        assert shown.spec.holder_identity == "one"
        assert (shown.spec.lease_duration_seconds, shown.spec.lease_transitions) == (15, 0)
        assert (shown.spec.acquire_time.timestamp(), shown.spec.renew_time.timestamp()) == (AT, AT + 2.0)
        assert shown.metadata.managed_fields[0].manager == "foresail"
    assert cluster.spec["renewTime"] == "2026-09-21T14:13:22.250000Z"


def test_what_others_wrote_on_it_stays(cluster: Cluster) -> None:
    store = cluster.store()
    made = store.write(Lease("one", 15.0, AT, AT))
    patch = {"metadata": {"labels": {"team": "serving"}}}
    cluster.api.call("PATCH", f"{PATH}/foresail", patch, MERGE)
    with pytest.raises(StalePlan):
        store.write(made)
    seen = store.read()
    assert seen is not None
    store.write(seen)
    assert cluster.api.call("GET", f"{PATH}/foresail")["metadata"]["labels"] == {"team": "serving"}


def test_of_two_that_make_it_or_take_it_at_once_one_does(cluster: Cluster) -> None:
    one, two = cluster.store(), cluster.store()
    assert (one.read(), two.read()) == (None, None)
    made = one.write(Lease("one", 15.0, AT, AT))
    with pytest.raises(StalePlan):
        two.write(Lease("two", 15.0, AT, AT))
    one.write(replace(made, renewed_at=AT + 2.0))
    with pytest.raises(StalePlan):
        two.write(replace(made, holder="two", transitions=1))
    assert cluster.spec["holderIdentity"] == "one"


def test_one_that_was_deleted_meanwhile_is_made_anew(cluster: Cluster) -> None:
    one = cluster.candidate("one")
    assert one.step()
    cluster.api.call("DELETE", f"{PATH}/foresail")
    assert one.step()
    assert (cluster.spec["holderIdentity"], cluster.spec["leaseTransitions"]) == ("one", 0)


def test_a_standby_takes_over_once_the_lease_was_not_renewed_for_as_long_as_it_says(cluster: Cluster) -> None:
    one, two = cluster.candidate("one"), cluster.candidate("two")
    assert (one.step(), two.step()) == (True, False)
    assert two.why_not() == "one leads"
    cluster.at_s = PLACE.duration_s
    assert not two.step()
    cluster.at_s += 0.1
    assert two.step()
    assert (cluster.spec["holderIdentity"], cluster.spec["leaseTransitions"]) == ("two", 1)
    assert not one.step()
    assert one.why_not() == "two leads"


def test_whoever_resigns_leaves_a_lease_that_names_nobody(cluster: Cluster) -> None:
    one, two = cluster.candidate("one"), cluster.candidate("two")
    assert (one.step(), two.step()) == (True, False)
    one.resign()
    assert "holderIdentity" not in cluster.spec
    assert two.step()
    assert cluster.spec["leaseTransitions"] == 1


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_who_is_cut_off_stops_acting_and_one_try_ends_before_that(how: Any, cluster: Cluster) -> None:
    one = cluster.candidate("one")
    assert one.step()
    cluster.api.partition(how)
    began_s = SystemClock().elapsed()
    assert one.step()
    assert SystemClock().elapsed() - began_s < PLACE.renew_within_s
    assert "does not answer" in one.trouble
    cluster.at_s = PLACE.renew_within_s
    assert one.why_not() == "the lease was not renewed in time"
    cluster.api.heal()
    assert one.step()
    assert one.trouble == ""


def test_a_try_of_which_each_answer_hangs_ends_before_the_lease_does(cluster: Cluster) -> None:
    one = cluster.candidate("one")
    assert one.step()
    cluster.api.fault(Fault(latency_s=0.15, verbs=("get",)))
    cluster.api.fault(Fault(hang=True, verbs=("update",)))
    began_s = SystemClock().elapsed()
    assert one.step()
    assert SystemClock().elapsed() - began_s < PLACE.renew_within_s
    assert "it may have happened all the same" in one.trouble


def test_a_renewal_whose_answer_was_lost_is_found_out(cluster: Cluster) -> None:
    one = cluster.candidate("one")
    cluster.api.fault(Fault(answer_lost=True, verbs=("create",), times=1))
    assert not one.step()
    assert cluster.spec["holderIdentity"] == "one"
    assert one.step()


@pytest.mark.parametrize("code", [429, 500, 503])
def test_a_server_in_trouble_ends_nothing_before_its_time(code: int, cluster: Cluster) -> None:
    one = cluster.candidate("one")
    assert one.step()
    cluster.api.fault(Fault(code=code))
    assert one.step()
    assert f"HTTP {code}" in one.trouble


def test_a_conflict_is_told_and_tried_again(cluster: Cluster) -> None:
    one = cluster.candidate("one")
    cluster.api.fault(Fault(code=409, times=1, verbs=("create",)))
    assert not one.step()
    assert "somebody else" in one.trouble
    assert one.step()


def test_a_right_that_is_missing_is_named(cluster: Cluster) -> None:
    rules = (Rule(("get", "update"), ("leases",), ("coordination.k8s.io",), ("foresail",), ("default",)),)
    cluster.api.grant("sesame", Subject("foresail", rules))
    one = Leadership(cluster.store(known_as="sesame"), PLACE, "one", lambda: AT, lambda: cluster.at_s)
    assert not one.step()
    assert "verbs: [create]" in one.trouble


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({}, Lease("", 15.0, 0.0, 0.0)),
        ({"holderIdentity": None, "leaseDurationSeconds": None}, Lease("", 15.0, 0.0, 0.0)),
        ({"holderIdentity": "x" * 9000}, Lease("x" * 253, 15.0, 0.0, 0.0)),
        ({"holderIdentity": "\x1b[2J\nme"}, Lease("?[2J?me", 15.0, 0.0, 0.0)),
        ({"holderIdentity": "a", "leaseDurationSeconds": 2**31 - 1}, Lease("a", MOST_DURATION_S, 0.0, 0.0)),
        ({"holderIdentity": "a", "renewTime": "9999-12-31T23:59:59.999999Z"}, Lease("a", 15.0, 0.0, 0.0)),
    ],
)  # fmt: skip
def test_what_a_stranger_wrote_is_read_within_bounds(spec: dict[str, Any], told: Lease, cluster: Cluster) -> None:
    cluster.write(**spec)
    store = cluster.store()
    seen = store.read()
    assert seen is not None
    assert replace(seen, version="") == told
    assert store.write(replace(seen, holder="one")).holder == "one"


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"metadata": {"resourceVersion": "7"}, "spec": {"holderIdentity": "somebody"}},
        {"metadata": {"resourceVersion": 7}, "spec": {"holderIdentity": "one"}},
        {"metadata": [], "spec": "one"},
    ],
)
def test_an_answer_that_does_not_show_our_name_makes_nobody_lead(
    answer: dict[str, Any], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = cluster.store()
    monkeypatch.setattr(store._api, "change", lambda _: answer)
    one = Leadership(store, PLACE, "one", lambda: AT, lambda: cluster.at_s)
    assert not one.step()
    assert "another lease than was written" in one.trouble


def test_no_two_candidates_have_a_name_in_common(cluster: Cluster) -> None:
    clock = SystemClock()
    names = {candidate(cluster.settings(), clock.now, clock.lasting).identity for _ in range(20)}
    assert len(names) == 20


def test_the_lease_is_where_the_settings_say(cluster: Cluster) -> None:
    store = cluster.store(lease=PLACE.model_copy(update={"name": "prod-foresail", "namespace": "elsewhere"}))
    with pytest.raises(ActuationError, match="elsewhere"):
        store.write(Lease("one", 15.0, AT, AT))
    cluster.api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "elsewhere"}})
    store.write(Lease("one", 15.0, AT, AT))
    cluster.api.call("GET", "/apis/coordination.k8s.io/v1/namespaces/elsewhere/leases/prod-foresail")


def test_credentials_that_are_read_again_are_no_way_around_the_fence(cluster: Cluster) -> None:
    """The first try is refused for its token; by the time of the second one another one leads."""
    for token in ("old", "new"):
        cluster.api.grant(token, ANYBODY)
    api = KubernetesApi(cluster.settings(known_as="old"), SystemClock().elapsed, fence := Fence())
    cluster.api.expire("old")
    cluster.settings(known_as="new")  # writes the kubeconfig anew
    body = {"metadata": {"name": "other"}, "spec": {}}
    change = Change(Question("create", LEASES, "default"), body)
    with pytest.raises(ActuationError, match="not sent: two leads"):
        api.change(change)
    assert fence.asked == [0.5, 0.5]
    assert api.get(LEASES, "default", "")["items"] == []  # and the new token is one that may
    api.close()


def test_a_server_that_is_not_there_is_an_error_of_ours(cluster: Cluster) -> None:
    store = cluster.store()
    cluster.api.partition("reset")
    asked: list[tuple[Callable[[], object], type[ForesailError]]] = [
        (store.read, ObservationError),
        (lambda: store.write(Lease("one", 15.0, AT, AT)), ActuationError),
    ]
    for ask, kind in asked:
        with pytest.raises(kind):
            ask()
