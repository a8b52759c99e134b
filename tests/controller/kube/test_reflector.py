"""Is a store what the server has, through every trouble that lists and watches meet?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest

from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.json_reading import word
from controller.adapters.kube.kinds import LEADER_WORKER_SETS, PODS, REPLICA_SETS, Resource
from controller.adapters.kube.pods import Pod, read_pod
from controller.adapters.kube.questions import Question
from controller.adapters.kube.reflector import Reflector, Surroundings
from controller.adapters.kube.revisions import read_revision
from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.system_clock import SystemClock
from controller.errors import ObservationError
from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.faults import Fault
from simulations.kubernetes_api.kubeconfig import kubeconfig, write_kubeconfig
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.builders_kube_api import Fleet, caught_up, settings_for

READ_POD = partial(read_pod, gpu_resources=frozenset(("nvidia.com/gpu",)))


@pytest.fixture(name="api")
def _api() -> Iterator[RunningApi]:
    with running_api() as api:
        yield api


def _reflector(api: RunningApi, folder: Path, resource: Resource = PODS, **more: Any) -> Reflector[Pod]:
    settings, elapsed = settings_for(api, folder, **more), SystemClock().elapsed
    around = Surroundings(KubernetesApi(settings, elapsed), settings, elapsed)
    return Reflector(around, resource, "prod", READ_POD, np.random.default_rng(7))


def _names(reflector: Reflector[Pod]) -> list[str]:
    return sorted(name for _, name in reflector.store.snapshot(30.0).objects)


@contextmanager
def _running(reflector: Reflector[Pod]) -> Iterator[None]:
    thread = Thread(target=reflector.run, daemon=True)
    thread.start()
    assert reflector.store.wait_until_listed(5.0)
    try:
        yield
    finally:
        reflector.stop()
        thread.join(5.0)
        assert not thread.is_alive()


def _caught_up(api: RunningApi, reflector: Reflector[Pod], within_s: float = 8.0) -> bool:
    return caught_up(api, [reflector], within_s)


def test_a_round_lists_in_pages_and_then_follows(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=5)
    reflector = _reflector(api, tmp_path, page_size=2)
    assert reflector.round() == 0.0
    assert _names(reflector) == [f"llama-abc-{n}" for n in range(5)]
    assert reflector.store.resource_version == str(api.version)


def test_changes_come_by_the_watch(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment(pods=1)
    reflector = _reflector(api, tmp_path)
    with _running(reflector):
        replica_set = api.call("GET", fleet.path("replicasets", "llama-abc"))
        fleet.pod("llama-abc-9", replica_set)
        fleet.patch("pods", "llama-abc-0", {"metadata": {"labels": {"foresail.dev/serving": "false"}}})
        assert _caught_up(api, reflector)
        assert _names(reflector) == ["llama-abc-0", "llama-abc-9"]
        changed = reflector.store.snapshot(30.0).objects["prod", "llama-abc-0"]
        assert changed.labels["foresail.dev/serving"] == "false"
        fleet.delete("pods", "llama-abc-9")
        assert _caught_up(api, reflector)
        assert _names(reflector) == ["llama-abc-0"]


def test_bookmarks_tell_how_far_it_has_got(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment(pods=1)
    api.call("POST", "/api/v1/namespaces", {"metadata": {"name": "elsewhere"}})
    reflector = _reflector(api, tmp_path, watch_s=3)
    spec = {"containers": [{"name": "engine", "image": "engine:1"}]}
    with _running(reflector):
        for name in ("before-it-watches-perhaps", "while-it-watches"):
            api.call("POST", "/api/v1/namespaces/elsewhere/pods", {"metadata": {"name": name}, "spec": spec})
            if _caught_up(api, reflector, within_s=4.0):
                break
        else:
            pytest.fail(f"got to {reflector.store.resource_version} of {api.version}")
    assert _names(reflector) == ["llama-abc-0"]


def test_a_kind_that_does_not_change_is_heard_of_and_not_listed_again(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=1)
    reflector = _reflector(api, tmp_path, watch_s=1)
    reflector.round()
    api.fault(Fault(code=500, verbs=("list",)))
    for _ in range(2):
        began_s = SystemClock().elapsed()
        assert reflector.round() == 0.0
        assert reflector.store.snapshot(SystemClock().elapsed() - began_s).objects


def test_a_history_that_the_server_has_forgotten_is_listed_anew(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment(pods=2)
    reflector = _reflector(api, tmp_path)
    reflector.round()
    fleet.delete("pods", "llama-abc-0")
    fleet.patch("pods", "llama-abc-1", {"metadata": {"labels": {"a": "b"}}})
    api.compact()
    assert reflector.round() == 0.0  # 410: at once again, with a list
    assert _names(reflector) == ["llama-abc-0", "llama-abc-1"]  # as before, and never fewer for a moment
    reflector.round()
    assert _names(reflector) == ["llama-abc-1"]


def test_a_list_whose_pages_are_forgotten_changes_nothing_until_it_is_whole(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment(pods=3)
    reflector = _reflector(api, tmp_path, page_size=1)
    reflector.round()
    reflector._listed_s = None
    gone = iter(["llama-abc-2"])

    def forgetting(told: object) -> Any:
        for name in gone:  # once, when the first page has come
            fleet.delete("pods", name)
            api.compact()
        return READ_POD(told)

    reflector._read = forgetting
    assert reflector.round() == 0.0
    assert len(_names(reflector)) == 3
    reflector.round()
    assert _names(reflector) == ["llama-abc-0", "llama-abc-1"]


@pytest.mark.parametrize(
    "trouble",
    [
        Fault(code=500, verbs=("watch",), times=2),
        Fault(code=503, verbs=("list", "watch"), times=3),
        Fault(code=429, times=1, retry_after_s=1),
        Fault(code=504, verbs=("watch",), times=1),
        Fault(reset=True, times=3),
        Fault(latency_s=0.3, times=4),
    ],
    ids=lambda fault: f"{fault.code or ('reset' if fault.reset else 'latency')}",
)
def test_trouble_passes_and_all_is_known_again(trouble: Fault, api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment(pods=2)
    reflector = _reflector(api, tmp_path, longest_backoff_s=0.2)
    with _running(reflector):
        api.fault(trouble)
        api.cut_connections()
        fleet.delete("pods", "llama-abc-0")
        assert _caught_up(api, reflector)
        assert _names(reflector) == ["llama-abc-1"]


def test_an_overloaded_server_is_not_asked_for_lists_besides(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=1)
    reflector = _reflector(api, tmp_path)
    reflector.round()
    api.fault(Fault(code=503, verbs=("watch",), times=2))
    api.fault(Fault(code=500, verbs=("list",)))
    assert [reflector.round() > 0 for _ in range(3)] == [True, True, False]


def test_a_place_that_the_server_never_takes_again_is_given_up(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=1)
    reflector = _reflector(api, tmp_path)
    reflector.round()
    api.fault(Fault(code=504, verbs=("watch",), times=4))
    for _ in range(4):
        assert reflector.round() > 0
    reflector.store.put(("prod", "llama-abc-0"), None, "99999")  # what a list must bring back
    assert reflector.round() == 0.0
    assert _names(reflector) == ["llama-abc-0"]


def test_watches_that_end_early_are_taken_up_where_they_ended(api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment(pods=2)
    reflector = _reflector(api, tmp_path, watch_s=10, longest_backoff_s=0.2)
    with _running(reflector):
        for number in range(5):
            fleet.patch("pods", "llama-abc-0", {"metadata": {"labels": {"step": str(number)}}})
            api.drop_watches()
        assert _caught_up(api, reflector)
        assert reflector.store.snapshot(30.0).objects["prod", "llama-abc-0"].labels["step"] == "4"


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_a_partition_is_told_in_time_and_never_as_an_emptier_fleet(how: Any, api: RunningApi, tmp_path: Path) -> None:
    fleet = Fleet(api)
    fleet.deployment(pods=2)
    reflector = _reflector(api, tmp_path, timeout_s=0.5, longest_backoff_s=0.2)
    reflector.round()
    api.partition(how)
    waits_s = [reflector.round() for _ in range(2)]
    assert all(0 < wait_s <= 0.2 for wait_s in waits_s)
    assert len(_names(reflector)) == 2  # still believed
    with pytest.raises(ObservationError, match=r"nothing was heard of them for .*does not answer"):
        reflector.store.snapshot(stale_after_s=0.0)
    api.heal()
    fleet.delete("pods", "llama-abc-0")
    reflector.round()
    assert _names(reflector) == ["llama-abc-1"]


def test_a_watch_that_hangs_in_silence_is_given_up(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=1)
    reflector = _reflector(api, tmp_path, timeout_s=0.3)
    reflector.round()
    api.fault(Fault(hang=True, verbs=("watch",), times=1))
    began_s = SystemClock().elapsed()
    assert reflector.round() > 0
    assert SystemClock().elapsed() - began_s < 3.0  # one watch, and what an answer may take beyond it
    assert reflector.round() == 0.0


def test_an_expired_token_is_read_again_and_told_where_that_does_not_help(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=1)
    rules = (Rule(("list", "watch"), ("pods",)),)
    api.grant("first", Subject("foresail", rules))
    reflector = _reflector(api, tmp_path, known_as="first")
    reflector.round()
    api.expire("first")
    assert reflector.round() > 0
    with pytest.raises(ObservationError, match="HTTP 401") as caught:
        reflector.store.snapshot(stale_after_s=-1.0)
    assert "does not know us" in caught.value.remedy
    api.grant("second", Subject("foresail", rules))
    api.write_kubeconfig(tmp_path / "kubeconfig", "second")
    assert reflector.round() == 0.0
    assert len(_names(reflector)) == 1


def test_a_missing_right_is_named(api: RunningApi, tmp_path: Path) -> None:
    api.grant("blind", Subject("foresail", (Rule(("list",), ("pods",)),)))
    reflector = _reflector(api, tmp_path, known_as="blind")
    reflector.round()
    with pytest.raises(ObservationError) as caught:
        reflector.store.snapshot(stale_after_s=-1.0)
    wanted = 'a Role in namespace prod with apiGroups: [""], resources: [pods], verbs: [watch]'
    assert wanted in caught.value.remedy
    assert caught.value.where == "watch pods in prod"


def test_a_kind_that_is_not_installed_is_no_trouble_and_asked_for_again(tmp_path: Path) -> None:
    with running_api(kinds=()) as api:
        reflector = _reflector(api, tmp_path, LEADER_WORKER_SETS, longest_backoff_s=3.0)
        assert reflector.round() == 3.0
        snapshot = reflector.store.snapshot(30.0)
        assert snapshot.objects == {}
        assert [refused.subject for refused in snapshot.refused] == [
            "leaderworkersets.leaderworkerset.x-k8s.io in prod"
        ]


def test_a_kind_that_vanishes_while_there_are_objects_of_it_is_not_believed(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=1)
    reflector = _reflector(api, tmp_path)
    reflector.round()
    reflector._listed_s = None
    api.fault(Fault(code=404, verbs=("list",), times=1))
    assert reflector.round() > 0
    assert len(_names(reflector)) == 1


def test_an_object_that_cannot_be_read_leaves_what_was_known_of_it(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=1)
    reflector = _reflector(api, tmp_path)
    reflector.round()
    known = reflector.store.snapshot(30.0).objects["prod", "llama-abc-0"]
    broken = {"metadata": {"namespace": "prod", "name": "llama-abc-0", "resourceVersion": "999"}}
    reflector._apply("MODIFIED", broken, Question("watch", PODS, "prod"))
    snapshot = reflector.store.snapshot(30.0)
    assert snapshot.objects["prod", "llama-abc-0"] is known
    assert [refused.subject for refused in snapshot.refused] == ["pod prod/llama-abc-0"]


def test_a_bug_in_what_reads_objects_ends_no_watch(api: RunningApi, tmp_path: Path) -> None:
    fleet, broken, met = Fleet(api), Event(), Event()
    fleet.deployment()

    def read(told: object) -> Any:
        if broken.is_set():
            met.set()
            raise ZeroDivisionError("no such number")
        return READ_POD(told)

    settings, elapsed = settings_for(api, tmp_path), SystemClock().elapsed
    around = Surroundings(KubernetesApi(settings, elapsed), settings, elapsed)
    reflector: Reflector[Pod] = Reflector(around, PODS, "prod", read, np.random.default_rng(7))
    with _running(reflector):
        broken.set()
        fleet.delete("pods", "llama-abc-0")
        fleet.patch("pods", "llama-abc-1", {"metadata": {"labels": {"team": "a"}}})
        assert met.wait(8.0)
        assert _names(reflector)  # what was known of it, until it is too old
        broken.clear()
        assert _caught_up(api, reflector)
        assert _names(reflector) == ["llama-abc-1"]


def test_everything_is_listed_anew_after_a_while(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=2)
    reflector = _reflector(api, tmp_path, resync_s=0.5)
    reflector.round()
    reflector.store.put(("prod", "llama-abc-0"), None, reflector.store.resource_version)  # as if a watch had lied
    assert len(_names(reflector)) == 1
    reflector.round()
    assert len(_names(reflector)) == 2


@contextmanager
def _fed_by(folder: Path, page: Any) -> Iterator[tuple[Reflector[Pod], list[str]]]:
    """A reflector whose server says ``page`` to each list and nothing to each watch; and what it was asked for."""
    asked: list[str] = []

    class Mute(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append("watch" if "watch=true" in self.path else "list")
            body = b"" if asked[-1] == "watch" else json.dumps(page).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Mute) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        file = write_kubeconfig(folder / "kubeconfig", kubeconfig(f"http://127.0.0.1:{server.server_address[1]}"))
        settings, elapsed = KubernetesSettings(kubeconfig=file), SystemClock().elapsed
        around = Surroundings(KubernetesApi(settings, elapsed), settings, elapsed)
        yield Reflector(around, PODS, "prod", READ_POD, np.random.default_rng(7)), asked
        server.shutdown()
        thread.join()


CHANGES = 10_000


@dataclass
class _Telling:
    """A server with very many changes to tell, which takes its time; what it was asked for is noted."""

    between_s: float = 0.0
    at_once: int = 100
    breaks_after: int = CHANGES
    lists: int = 0
    places: list[int] = field(default_factory=list)

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        query = dict(parse_qsl(urlsplit(handler.path).query))
        handler.send_response(200)
        if "watch" not in query:
            self.lists += 1
            handler.end_headers()
            handler.wfile.write(json.dumps({"metadata": {"resourceVersion": "1"}, "items": []}).encode())
            return
        self.places.append(int(query["resourceVersion"]))
        last = min(CHANGES, self.places[-1] + self.breaks_after)
        if last < CHANGES:
            handler.send_header("Content-Length", str(2**40))  # of which it keeps back most
        handler.end_headers()
        for first in range(self.places[-1] + 1, last + 1, self.at_once):
            these = range(first, min(first + self.at_once, last + 1))
            handler.wfile.write(b"".join(map(_added, these)))
            Event().wait(self.between_s)
        if last < CHANGES:
            handler.wfile.write(b'{"type": "ADDED", "obj')
        else:
            handler.wfile.write(_bookmark(CHANGES))


def _added(place: int) -> bytes:
    told = {"metadata": {"namespace": "prod", "name": f"pod-{place}", "resourceVersion": str(place)}}
    return json.dumps({"type": "ADDED", "object": told}).encode() + b"\n"


def _bookmark(place: int) -> bytes:
    return json.dumps({"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": str(place)}}}).encode() + b"\n"


@contextmanager
def _told_by(folder: Path, telling: _Telling) -> Iterator[Reflector[str]]:
    class Teller(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            with suppress(ConnectionError):  # who has heard enough
                telling.answer(self)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Teller) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        file = write_kubeconfig(folder / "kubeconfig", kubeconfig(f"http://127.0.0.1:{server.server_address[1]}"))
        settings, elapsed = KubernetesSettings(kubeconfig=file, watch_s=1, timeout_s=0.2), SystemClock().elapsed
        around = Surroundings(KubernetesApi(settings, elapsed), settings, elapsed)
        yield Reflector(around, PODS, "prod", lambda told: word(told, "metadata", "name"), np.random.default_rng(7))
        server.shutdown()
        thread.join()


def test_a_watch_with_more_to_tell_than_there_is_time_for_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    """All of it takes five seconds at least, and no watch may last longer than 1.2."""
    telling, waits_s = _Telling(between_s=0.05), []
    with _told_by(tmp_path, telling) as reflector:
        while reflector.store.resource_version != str(CHANGES):
            waits_s.append(reflector.round())
            assert len(waits_s) < 60
            assert reflector.store.snapshot(5.0)
        assert len(reflector.store) == CHANGES - 1
    assert telling.lists == 1
    assert len(telling.places) >= 4
    assert telling.places == sorted(set(telling.places))  # each further than the one before
    assert set(waits_s) == {0.0}


def test_watches_that_break_and_get_further_each_time_are_never_followed_by_a_list(tmp_path: Path) -> None:
    telling, waits_s = _Telling(breaks_after=500), []
    with _told_by(tmp_path, telling) as reflector:
        while reflector.store.resource_version != str(CHANGES):
            waits_s.append(reflector.round())
            assert len(waits_s) < 60
        assert len(reflector.store) == CHANGES - 1
    assert telling.lists == 1
    assert telling.places == [1 + 500 * number for number in range(20)]
    assert all(0.25 <= wait_s <= 0.5 for wait_s in waits_s[:-1])  # a server that breaks off is let alone for a moment
    assert waits_s[-1] == 0.0


def test_a_watch_without_a_word_is_followed_by_a_list_and_not_by_a_storm(tmp_path: Path) -> None:
    with _fed_by(tmp_path, {"metadata": {"resourceVersion": "5"}, "items": []}) as (reflector, asked):
        waits_s = [reflector.round() for _ in range(4)]
    assert asked == ["list", "watch"] * 4
    assert waits_s == sorted(waits_s)
    assert 0.25 <= waits_s[0] <= 0.5
    assert 2.0 <= waits_s[3] <= 4.0


@pytest.mark.parametrize(
    "page", [{}, {"items": []}, {"metadata": {"resourceVersion": "5"}}, {"metadata": {"continue": "x"}, "items": []}]
)
def test_a_list_that_is_none_or_has_no_end_is_refused(page: Any, tmp_path: Path) -> None:
    with _fed_by(tmp_path, page) as (reflector, asked):
        assert reflector.round() > 0
        assert asked == ["list"]
    with pytest.raises(ObservationError, match=r"not read yet: (the answer is no list|a page without)"):
        reflector.store.snapshot(30.0)


@pytest.mark.parametrize(
    ("kind", "place"),
    [("ADDED", None), ("BOOKMARK", ""), ("WHAT", "7"), ("", "7")],
    ids=["no place", "", "what", "none"],
)
def test_an_event_that_is_none_is_refused(kind: str, place: str | None, api: RunningApi, tmp_path: Path) -> None:
    told = {"metadata": {"resourceVersion": place, "name": "a", "namespace": "prod"}}
    with pytest.raises(ObservationError, match="an event"):
        _reflector(api, tmp_path)._apply(kind, told, Question("watch", PODS, "prod"))


def test_metadata_alone_is_enough_for_revisions(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment()
    settings, elapsed = settings_for(api, tmp_path), SystemClock().elapsed
    around = Surroundings(KubernetesApi(settings, elapsed), settings, elapsed)
    read = partial(read_revision, kind="ReplicaSet")
    reflector = Reflector(around, REPLICA_SETS, "prod", read, np.random.default_rng(7))
    reflector.round()
    (revision,) = reflector.store.snapshot(30.0).objects.values()
    assert (revision.name, revision.number) == ("abc", 1)


def test_more_objects_than_are_held_are_refused(api: RunningApi, tmp_path: Path) -> None:
    Fleet(api).deployment(pods=3)
    reflector = _reflector(api, tmp_path, max_objects=2)
    assert reflector.round() > 0
    with pytest.raises(ObservationError, match="more than 2 of them"):
        reflector.store.snapshot(30.0)
