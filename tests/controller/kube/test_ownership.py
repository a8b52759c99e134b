"""Is it known who else sets the number of replicas, and is nobody taken for an owner who is none?"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from controller.adapters.kube.ownership import (
    HPA,
    SCALED_OBJECT,
    VPA,
    Autoscaler,
    Owner,
    OwnerKind,
    OwnershipSettings,
    Writer,
    autoscaler_of,
    owner_of,
    read_autoscaler,
    writer_of,
)

MADE_AT, AT = 1_000_000.0, 1_010_000.0
SETTINGS = OwnershipSettings()


def when(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat().replace("+00:00", "Z")


def field_of(manager: str, at: float, operation: str = "Update", **more: Any) -> dict[str, Any]:
    fields = {"f:spec": {"f:replicas": {}}}
    return {"manager": manager, "operation": operation, "time": when(at), "fieldsV1": fields, **more}


def workload(*managed: dict[str, Any]) -> dict[str, Any]:
    return {"metadata": {"namespace": "llm", "name": "chat", "managedFields": list(managed)}, "spec": {"replicas": 3}}


def scaler(kind: str, name: str = "s", target: str = "chat", **more: Any) -> dict[str, Any]:
    ref = {"apiVersion": "apps/v1", "kind": "Deployment", "name": target}
    metadata = {"namespace": "llm", "name": name, **more.pop("metadata", {})}
    return {"metadata": metadata, "spec": {"targetRef" if kind == VPA else "scaleTargetRef": ref, **more}}


def read(told: object, kind: str) -> Autoscaler:
    found = read_autoscaler(told, kind)
    assert found is not None
    return found


def owner(told: dict[str, Any], settings: OwnershipSettings = SETTINGS, at: float = AT) -> Owner | None:
    return owner_of(None, writer_of(told), MADE_AT, at, settings)


def test_an_autoscaler_owns_what_it_names_and_nothing_else() -> None:
    hpa = read(scaler(HPA), HPA)
    assert autoscaler_of("llm", "Deployment", "chat", [hpa]) == hpa
    others = [("llm", "Deployment", "other"), ("llm", "StatefulSet", "chat"), ("prod", "Deployment", "chat")]
    assert [autoscaler_of(*other, [hpa]) for other in others] == [None] * 3
    found = owner_of(hpa, None, MADE_AT, AT, OwnershipSettings(take_over=frozenset(OwnerKind)))
    assert found == Owner(OwnerKind.AUTOSCALER, f"{HPA} llm/s", f"delete or pause {HPA} llm/s: it goes on writing")


def test_a_scaled_object_is_told_rather_than_the_autoscaler_that_it_made() -> None:
    made = {"metadata": {"ownerReferences": [{"kind": SCALED_OBJECT, "name": "s", "controller": True}]}}
    both = [read(scaler(HPA, "keda-hpa-s", **made), HPA), read(scaler(SCALED_OBJECT), SCALED_OBJECT)]
    for order in (both, both[::-1]):
        found = autoscaler_of("llm", "Deployment", "chat", order)
        assert found is not None
        assert found.title == f"{SCALED_OBJECT} llm/s"


def test_a_scaled_object_without_a_kind_scales_a_deployment_and_one_that_is_paused_scales_nothing() -> None:
    told = scaler(SCALED_OBJECT)
    del told["spec"]["scaleTargetRef"]["kind"]
    assert read(told, SCALED_OBJECT).target_kind == "Deployment"
    paused = {"metadata": {"annotations": {"autoscaling.keda.sh/paused": "True"}}}
    assert not read(scaler(SCALED_OBJECT, **paused), SCALED_OBJECT).active
    held = {"metadata": {"annotations": {"autoscaling.keda.sh/paused-replicas": "4"}}}
    assert read(scaler(SCALED_OBJECT, **held), SCALED_OBJECT).active
    assert autoscaler_of("llm", "Deployment", "chat", [read(scaler(SCALED_OBJECT, **paused), SCALED_OBJECT)]) is None


@pytest.mark.parametrize(
    ("mode", "ends_pods"), [("Auto", True), ("Recreate", True), ("Off", False), ("Initial", False)]
)
def test_a_vertical_autoscaler_sets_no_number_and_may_end_pods(mode: str, ends_pods: bool) -> None:
    vpa = read(scaler(VPA, updatePolicy={"updateMode": mode}), VPA)
    assert autoscaler_of("llm", "Deployment", "chat", [vpa]) is None
    assert (autoscaler_of("llm", "Deployment", "chat", [vpa], of=VPA) is vpa) is ends_pods


def test_what_came_with_the_workload_is_nobodys_edit() -> None:
    assert owner(workload(field_of("kubectl-client-side-apply", MADE_AT + 1.0))) is None
    assert owner(workload(field_of("terraform", MADE_AT + 59.0))) is None
    assert owner(workload()) is None


def test_what_we_and_the_controllers_of_kubernetes_wrote_is_ours_to_set() -> None:
    assert owner(workload(field_of("foresail", AT - 10.0, subresource="scale"))) is None
    assert owner(workload(field_of("kube-controller-manager", AT - 10.0, subresource="scale"))) is None


def test_a_persons_edit_holds_for_a_while_and_may_be_overruled() -> None:
    edited = workload(field_of("kubectl-edit", AT - 600.0))
    found = owner(edited)
    assert found is not None
    assert (found.kind, found.title) == (OwnerKind.PERSON, "somebody by kubectl-edit")
    assert "until 1970-01-12 17:23:20Z" in found.remedy
    assert found.until == AT + 3000.0
    assert owner(edited, at=AT + 3000.0) is None
    assert owner(edited, OwnershipSettings(take_over=frozenset({OwnerKind.PERSON}))) is None
    assert owner(edited, OwnershipSettings(take_over=frozenset({OwnerKind.GITOPS}))) == found


@pytest.mark.parametrize(
    ("manager", "operation", "tool"),
    [
        ("argocd-controller", "Apply", "Argo CD"),
        ("kustomize-controller", "Apply", "Flux"),
        ("helm", "Update", "Helm"),
        ("our-deployer", "Apply", "our-deployer"),
    ],
)
def test_who_applies_a_manifest_with_a_number_owns_it_however_long_ago(manager: str, operation: str, tool: str) -> None:
    applied = workload(field_of(manager, MADE_AT + 1.0, operation))
    found = owner(applied)
    assert found is not None
    assert found.kind is OwnerKind.GITOPS
    assert found.remedy == f"take replicas out of what {tool} applies, or add gitops to take_over"
    assert owner(applied, OwnershipSettings(take_over=frozenset({OwnerKind.GITOPS}))) is None


def test_another_foresail_is_no_person() -> None:
    found = owner(workload(field_of("foresail-blue", AT - 5.0, subresource="scale")))
    assert found is not None
    assert found.kind is OwnerKind.FORESAIL
    assert (
        owner(workload(field_of("foresail-blue", AT - 5.0)), OwnershipSettings(field_manager="foresail-blue")) is None
    )


def test_of_several_owners_of_one_number_the_last_is_told_and_other_fields_do_not_count() -> None:
    labels = {"manager": "kubectl-label", "operation": "Update", "time": when(AT), "fieldsV1": {"f:metadata": {}}}
    told = workload(field_of("helm", MADE_AT, "Apply"), field_of("kubectl", AT - 60.0), labels)
    assert writer_of(told) == Writer("kubectl", applied=False, at=AT - 60.0)
    assert writer_of(workload(labels)) is None


def test_an_autoscaler_follows_us_by_our_series_or_its_own_word() -> None:
    external = {"type": "External", "external": {"metric": {"name": "foresail_desired_replicas"}}}
    query = {"type": "prometheus", "metadata": {"query": 'sum(wva_desired_replicas{variant_name="chat"})'}}
    said = {"metadata": {"annotations": {"foresail.dev/follows": "true"}}}
    assert read(scaler(HPA, metrics=[{"type": "Resource"}, external]), HPA).follows
    assert read(scaler(SCALED_OBJECT, triggers=[query]), SCALED_OBJECT).follows
    assert read(scaler(SCALED_OBJECT, **said), SCALED_OBJECT).follows
    assert not read(scaler(HPA, metrics=[{"type": "Resource"}]), HPA).follows
    follower, other = read(scaler(HPA, **said), HPA), read(scaler(HPA, "z"), HPA)
    assert autoscaler_of("llm", "Deployment", "chat", [follower, other]) is other


@pytest.mark.parametrize("name", ["", "kubectl", "Foresail", "foresail_2", "foresail" + "x" * 41])
def test_a_field_manager_that_cannot_be_told_from_others_is_refused(name: str) -> None:
    with pytest.raises(ValidationError):
        OwnershipSettings(field_manager=name)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["metadata", "spec", "managedFields", "fieldsV1", "f:spec", "f:replicas", "time", "manager",
                         "scaleTargetRef", "name", "namespace", "kind", "annotations", "ownerReferences",
                         "metrics", "triggers"]),
        inner,
        max_size=5,
    ),
    max_leaves=15,
)  # fmt: skip


@given(JSON, st.sampled_from([HPA, SCALED_OBJECT, VPA]))
def test_whatever_an_object_is_it_is_read_or_owns_nothing(told: object, kind: str) -> None:
    found, writer = read_autoscaler(told, kind), writer_of(told)
    assert found is None or found.target_name
    assert owner_of(None, writer, math.nan, AT, SETTINGS) is None or writer is not None
