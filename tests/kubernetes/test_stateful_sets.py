"""Is a StatefulSet scaled, from its end, and does it go back to a revision that its own controller keeps?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from controller.adapters.kube.kinds import CONTROLLER_REVISIONS
from controller.errors import ActuationError
from tests.builders_acting import Acting, acting_on, key_of
from tests.builders_any_cluster import STATEFUL_SETS, Hands, Place, template


@pytest.fixture(name="foresail")
def _foresail(place: Place) -> Iterator[Acting]:
    with acting_on(place, kinds=["StatefulSet"]) as acting:
        yield acting


def test_it_grows_in_order_and_gives_up_its_highest_ordinals(foresail: Acting, hands: Hands) -> None:
    hands.stateful_set("row", 1, {"foresail.dev/model": "row"})
    foresail.at_rest("row", 1)
    foresail.scale("row", 3)
    foresail.at_rest("row", 3)
    assert hands.names("row") == {"row-0", "row-1", "row-2"}
    foresail.scale("row", 2)
    foresail.at_rest("row", 2)
    assert hands.names("row") == {"row-0", "row-1"}


def test_one_that_is_to_go_first_and_would_stay_is_told_and_nothing_is_scaled(foresail: Acting, hands: Hands) -> None:
    hands.stateful_set("fixed", 2, {"foresail.dev/model": "fixed"})
    foresail.at_rest("fixed", 2)
    with pytest.raises(ActuationError, match="highest ordinals"):
        foresail.scale("fixed", 1, ("fixed-0",))
    assert hands.get(STATEFUL_SETS, "fixed")["spec"]["replicas"] == 2


def test_it_goes_back_to_the_revision_that_was_recorded_pod_by_pod(foresail: Acting, hands: Hands) -> None:
    hands.stateful_set("kept", 2, {"foresail.dev/model": "kept"})
    good = foresail.at_rest("kept", 2).revision
    assert good in {one["metadata"]["name"] for one in hands.list(CONTROLLER_REVISIONS)}
    known = {good}
    for image in ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.8"):
        changed = {"op": "replace", "path": "/spec/template", "value": template("kept", image)}
        hands.patch(STATEFUL_SETS, "kept", [changed])
        known.add(foresail.seen("kept", lambda pool: pool.revision if pool.revision not in known else ""))
        foresail.at_rest("kept", 2)
    assert set(foresail.at_rest("kept", 2).revisions) == known
    foresail.cluster.roll_back(key_of("kept"), good)
    foresail.seen("kept", lambda pool: pool.revision == good)
    pool = foresail.at_rest("kept", 2)
    assert {one.revision for one in pool.replicas} == {good}
    assert (pool.revision, hands.get(STATEFUL_SETS, "kept")["spec"]["replicas"]) == (good, 2)
    with pytest.raises(ActuationError, match="no revision"):
        foresail.cluster.roll_back(key_of("kept"), "kept-never")
    with pytest.raises(ActuationError, match="no pause"):
        foresail.cluster.pause(key_of("kept"))
