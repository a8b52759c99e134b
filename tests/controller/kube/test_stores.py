"""When is what a store holds believed, and how far has it got?"""

from __future__ import annotations

from threading import Thread

import pytest

from controller.adapters.kube.json_reading import Refused
from controller.adapters.kube.stores import Store
from controller.errors import ObservationError


class Elapsed:
    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def _store(most: int = 10) -> tuple[Store[str], Elapsed]:
    elapsed = Elapsed()
    return Store("pods in prod", elapsed, most), elapsed


def test_nothing_is_told_before_the_first_list() -> None:
    store, _ = _store()
    with pytest.raises(ObservationError, match="not read yet"):
        store.snapshot(90.0)
    store.fail(ObservationError("HTTP 403: no", "list pods in prod", "grant it"))
    with pytest.raises(ObservationError, match="not read yet: HTTP 403: no") as caught:
        store.snapshot(90.0)
    assert (caught.value.where, caught.value.remedy) == ("list pods in prod", "grant it")


def test_what_is_not_told_is_named_once() -> None:
    store, _ = _store()
    for error in (None, ObservationError("HTTP 403: no", "list pods in prod", "grant it")):
        store.fail(error)
        with pytest.raises(ObservationError, match="not read yet") as caught:
            store.snapshot(90.0)
        assert str(caught.value).count("pods in prod") == 1


def test_what_was_heard_too_long_ago_is_not_told() -> None:
    store, elapsed = _store()
    store.replace({("prod", "a"): "a"}, {}, "5")
    elapsed.now_s += 90.0
    assert store.snapshot(90.0).objects == {("prod", "a"): "a"}
    elapsed.now_s += 1.0
    with pytest.raises(ObservationError, match="nothing was heard of them for 91 s"):
        store.snapshot(90.0)
    store.reach("6")
    assert store.snapshot(90.0).objects == {("prod", "a"): "a"}


def test_a_snapshot_is_the_same_as_long_as_nothing_changes() -> None:
    store, _ = _store()
    store.replace({("prod", "a"): "a"}, {}, "5")
    first = store.snapshot(90.0)
    store.reach("7")
    assert store.snapshot(90.0) is first
    store.put(("prod", "a"), None, "8")
    assert first.objects == {("prod", "a"): "a"}
    assert store.snapshot(90.0).objects == {}


def test_what_is_refused_keeps_what_was_known_also_in_a_list() -> None:
    store, _ = _store()
    store.replace({("prod", "a"): "a", ("prod", "b"): "b"}, {}, "5")
    why = Refused("pod prod/a", "odd")
    store.replace({}, {("prod", "a"): why, ("prod", "c"): why}, "6")
    assert store.snapshot(90.0).objects == {("prod", "a"): "a"}
    store.put(("prod", "a"), "new", "7")
    assert store.snapshot(90.0).refused == (why,)


def test_places_in_the_history_are_numbers_of_any_length() -> None:
    store, _ = _store()
    store.replace({}, {}, "9")
    assert store.wait_for("9", 0.0)
    assert not store.wait_for("10", 0.0)
    store.reach("100")
    assert store.wait_for("99", 0.0)
    store.reach("opaque")
    assert store.wait_for("opaque", 0.0)
    assert not store.wait_for("1", 0.0)


def test_waiting_ends_when_the_place_is_reached() -> None:
    store, _ = _store()
    waited: list[bool] = []
    thread = Thread(target=lambda: waited.append(store.wait_for("5", 10.0)))
    thread.start()
    store.replace({}, {}, "5")
    thread.join(10.0)
    assert waited == [True]


def test_a_store_holds_no_more_than_it_may() -> None:
    store, _ = _store(most=1)
    store.put(("prod", "a"), "a", "1")
    with pytest.raises(ObservationError, match="more than 1 of them"):
        store.put(("prod", "b"), "b", "2")
