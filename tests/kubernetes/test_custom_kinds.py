"""Is a kind that is known by its scale subresource alone scaled, its pods left to whoever makes them?"""

from __future__ import annotations

import pytest

from controller.adapters.kube.changes import MERGE_PATCH
from controller.adapters.kube.kinds import Resource
from controller.adapters.kube.questions import ApiRefused
from controller.adapters.kube.settings import CustomKind
from controller.errors import StalePlan
from tests.builders_acting import acting_on, key_of
from tests.builders_any_cluster import Place
from tests.builders_definitions import a_definition, defined

SCALE = {
    "specReplicasPath": ".spec.size",
    "statusReplicasPath": ".status.size",
    "labelSelectorPath": ".status.selector",
}


def test_a_custom_kind_is_scaled_by_its_own_path(place: Place) -> None:
    group = f"{place.namespace}.suite.foresail.dev"  # no other run defines the same
    kind = Resource(group, "v1", "servers", "Server")
    custom = CustomKind(kind="Server", group=group, plural="servers", replicas_path="spec.size")
    hands = place.hands
    with defined(place, a_definition(kind, {"scale": SCALE})):
        labels = {"foresail.dev/model": "served", "app": "served"}
        made = hands.create(kind, {"metadata": {"name": "served", "labels": labels}, "spec": {"size": 1}})
        assert made["metadata"]["generation"] == 1
        hands.patch(kind, "served", {"status": {"size": 1, "selector": "app=served"}}, MERGE_PATCH, "status")
        scale = hands.get(kind, "served", "scale")
        assert (scale["spec"]["replicas"], scale["status"]) == (1, {"replicas": 1, "selector": "app=served"})
        assert hands.get(kind, "served")["metadata"]["generation"] == 1
        with acting_on(place, kinds=[], custom_kinds=[custom.model_dump()]) as foresail:
            pool = foresail.seen("served", lambda pool: pool)
            foresail.cluster.scale(key_of("served"), 3, pool.version)
            held = hands.get(kind, "served")
            assert (held["spec"], held["metadata"]["generation"]) == ({"size": 3}, 2)
            with pytest.raises(StalePlan, match="generation"):
                foresail.cluster.scale(key_of("served"), 5, pool.version)
        scale["spec"]["replicas"] = -1
        scale["metadata"].pop("resourceVersion")
        with pytest.raises(ApiRefused):
            hands.update(kind, scale, "scale")
        assert hands.get(kind, "served")["spec"] == {"size": 3}
        hands.delete(kind, "served")
