"""Is every write on the trail, with who made it and what it met?"""

from __future__ import annotations

import pytest
from kubernetes import client

from simulations.kubernetes_api.access import Rule, Subject
from simulations.kubernetes_api.running import running_api
from tests.builders_kubernetes_api import NAMESPACE, clients, deployment

ALL = (Rule(("*",), ("*",), ("*",)),)


def test_a_write_is_noted_with_what_it_met_and_a_refused_one_is_not() -> None:
    with running_api() as api:
        api.grant("secret", Subject("foresail-0", ALL))
        with clients(api, "secret") as by:
            by.apps.create_namespaced_deployment(NAMESPACE, deployment(replicas=3))
            scale = by.apps.read_namespaced_deployment_scale("engine", NAMESPACE)
            scale.spec.replicas = 5
            by.apps.replace_namespaced_deployment_scale("engine", NAMESPACE, scale)
            with pytest.raises(client.ApiException, match="409"):
                by.apps.replace_namespaced_deployment_scale("engine", NAMESPACE, scale)
        made, scaled = api.written
    assert (made.verb, made.resource, made.name, made.before) == ("create", "deployments", "engine", None)
    assert (scaled.user, scaled.verb, scaled.resource) == ("foresail-0", "update", "deployments/scale")
    assert (scaled.generation_before, scaled.changed) == (1, True)
    assert scaled.after is not None
    assert scaled.after["spec"]["replicas"] == 5
