"""Can a lease be held by one of two, whatever they write at the same time?"""

from __future__ import annotations

from typing import Any

import pytest

from controller.adapters.kube.questions import ApiRefused
from tests.builders_any_cluster import LEASES, Hands


def lease(name: str, holder: str) -> dict[str, Any]:
    spec = {
        "holderIdentity": holder,
        "leaseDurationSeconds": 15,
        "leaseTransitions": 0,
        "acquireTime": "2026-01-02T03:04:05.678901Z",
        "renewTime": "2026-01-02T03:04:05.678901Z",
    }
    return {"metadata": {"name": name}, "spec": spec}


def taken_by(held: dict[str, Any], holder: str) -> dict[str, Any]:
    return {**held, "spec": {**held["spec"], "holderIdentity": holder}}


def test_only_the_first_of_two_creates_it(hands: Hands) -> None:
    made = hands.create(LEASES, lease("created", "a"))
    assert made["spec"] == lease("created", "a")["spec"]  # microseconds too
    with pytest.raises(ApiRefused) as second:
        hands.create(LEASES, lease("created", "b"))
    assert second.value.status == 409
    assert hands.get(LEASES, "created")["spec"]["holderIdentity"] == "a"


def test_only_the_first_of_two_who_read_the_same_takes_it(hands: Hands) -> None:
    held = hands.create(LEASES, lease("updated", ""))
    hands.update(LEASES, taken_by(held, "a"))
    with pytest.raises(ApiRefused) as second:
        hands.update(LEASES, taken_by(held, "b"))
    assert second.value.status == 409
    assert hands.get(LEASES, "updated")["spec"]["holderIdentity"] == "a"


def test_an_update_that_does_not_say_what_it_was_made_from_is_invalid(hands: Hands) -> None:
    hands.create(LEASES, lease("unversioned", "a"))
    with pytest.raises(ApiRefused) as refused:
        hands.update(LEASES, {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **lease("unversioned", "b")})
    assert refused.value.status == 422
    assert hands.get(LEASES, "unversioned")["spec"]["holderIdentity"] == "a"
