"""Who else sets the replicas of a workload or the weights of a route: a controller, a tool, a person, another Foresail?

Two that set one number fight. Autoscalers say whom they scale. Everybody else is known by what the API server notes of
each field: who changed it last, when, and by which operation (``managedFields``). What was set when the workload was
made is nobody's edit: someone had to give a number. Tools that apply manifests again and again own what their manifests
give, whenever that was.

Everything here is pure. What is not understood owns nothing: an object that claims a workload has to say so plainly.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field

from controller.adapters.kube import json_reading as js
from controller.adapters.kube.json_reading import entries, flag, text, under, word, words
from controller.instants import instant

HPA, SCALED_OBJECT, VPA = "HorizontalPodAutoscaler", "ScaledObject", "VerticalPodAutoscaler"

MADE_WITHIN_S = 60.0
"""A number that was set so soon after its workload was made came with it."""

_TOOLS: Mapping[str, str] = {
    "argocd-controller": "Argo CD",
    "argocd-application-controller": "Argo CD",
    "kustomize-controller": "Flux",
    "helm-controller": "Flux",
    "helm": "Helm",
}
"""Field managers of tools that apply manifests, as each calls itself."""

_CONTROLLERS = frozenset({"kube-controller-manager", "keda-operator", "keda"})
"""Field managers of autoscalers and controllers of workloads: whether one of them scales, its own object says."""

_SHIFTERS: Mapping[str, str] = {
    "rollouts-controller": "Argo Rollouts",
    "gatewayAPI": "the Gateway API plugin of Argo Rollouts",
    "flagger": "Flagger",
}
"""Field managers of controllers that shift traffic, step by step, from one revision to the next."""

_RULES = {"HTTPRoute": ("spec", "rules"), "VirtualService": ("spec", "http")}
"""The list that holds the weights of each kind of route. It is owned as a whole: whoever writes one rule owns all."""

_EVICTS = frozenset({"Auto", "Recreate", "InPlaceOrRecreate", ""})
"""Update modes of a VerticalPodAutoscaler that end pods; the empty one is what it does when it says nothing."""

_PUBLISHED = ("foresail_desired_replicas", "wva_desired_replicas")
"""Series of ours that others scale by."""


class OwnerKind(StrEnum):
    """What kind of owner the number of replicas, or the weights of a route, have."""

    AUTOSCALER = "autoscaler"
    GITOPS = "gitops"
    FORESAIL = "foresail"
    PERSON = "person"
    SHIFTER = "shifter"


class OwnershipSettings(BaseModel):
    """Who may be overruled, and how we call ourselves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    field_manager: str = Field(
        "foresail",
        pattern=r"^foresail[a-z0-9-]{0,40}$",
        description="Name under which the API server notes what we write. Two of us in one cluster need two names.",
    )
    take_over: frozenset[OwnerKind] = Field(
        frozenset(),
        description="Owners of the number of replicas, or of the weights of a route, that are overruled: gitops, "
        "foresail, person. An autoscaler never is, nor is who shifts traffic, for they go on writing: delete or pause "
        "them.",
    )
    person_holds_s: float = Field(
        3600.0,
        ge=0,
        description="Seconds for which what a person has set is left alone; they had a reason, and forget it.",
    )


@dataclass(frozen=True, slots=True)
class Autoscaler:
    """What is kept of an object that scales, or ends pods of, a workload.

    Attributes:
        active: Whether it does so now: it may be paused, or only recommend.
        made_by: Kind of the object that made it, such as a ScaledObject its HorizontalPodAutoscaler; empty for none.
        follows: Whether it scales by what we publish. It still writes the number, and we do not; but the number is ours
            to choose.
    """

    kind: str
    namespace: str
    name: str
    target_kind: str
    target_name: str
    active: bool
    made_by: str = ""
    follows: bool = False

    @property
    def title(self) -> str:
        """How people call it: ``ScaledObject prod/llama``."""
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Writer:
    """Who set something last, as the API server has noted it.

    Attributes:
        name: What it calls itself.
        applied: Whether it declared it (server-side apply) rather than changed it.
        at: When; NaN where that is not told.
    """

    name: str
    applied: bool
    at: float


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns the number of replicas, or the weights of a route, and what to do about it.

    Attributes:
        until: When that ends by itself; infinite where it does not.
        follows: Whether it sets the number that we publish.
    """

    kind: OwnerKind
    title: str
    remedy: str
    until: float = math.inf
    follows: bool = False


def read_autoscaler(told: object, kind: str, prefix: str = "foresail.dev") -> Autoscaler | None:
    """Return what is kept of a HorizontalPodAutoscaler, ScaledObject or VerticalPodAutoscaler; None if it names nobody.

    It follows us where a metric of it is a series of ours, or where it says so by the annotation PREFIX/follows.
    KEDA pauses by annotation: ``paused`` leaves the number as it is, for others to set; ``paused-replicas`` holds one.
    """
    namespace, name = word(told, "metadata", "namespace"), word(told, "metadata", "name")
    ref = under(told, "spec", "targetRef" if kind == VPA else "scaleTargetRef")
    target = word(ref, "name")
    if not (namespace and name and target):
        return None
    annotations = words(told, "metadata", "annotations")
    paused = annotations.get("autoscaling.keda.sh/paused", "")
    metrics = [text(metric, "external", "metric", "name") for metric in entries(told, "spec", "metrics")]
    queries = [text(trigger, "metadata", "query") for trigger in entries(told, "spec", "triggers")]
    follows = annotations.get(f"{prefix}/follows") == "true" or any(
        ours in said for said in (*metrics, *queries) for ours in _PUBLISHED
    )
    active = {
        HPA: True,
        SCALED_OBJECT: paused.lower() != "true",
        VPA: text(told, "spec", "updatePolicy", "updateMode") in _EVICTS,
    }[kind]
    makers = [
        word(owner, "kind") for owner in entries(told, "metadata", "ownerReferences") if flag(owner, "controller")
    ]
    target_kind, made_by = word(ref, "kind") or "Deployment", makers[0] if makers else ""
    return Autoscaler(kind, namespace, name, target_kind, target, active, made_by, follows)


def writer_of(told: object, path: Sequence[str] = ("spec", "replicas")) -> Writer | None:
    """Return who set the field at ``path`` of the object last, None where nobody is noted.

    Several that declared the same value own it together; whoever did so last is told.
    """
    found = [
        Writer(word(entry, "manager"), text(entry, "operation") == "Apply", js.instant(entry, "time"))
        for entry in entries(told, "metadata", "managedFields")
        if under(entry, "fieldsV1", *(f"f:{key}" for key in path)) is not None
    ]
    return max(found, key=lambda writer: (_or_never(writer.at), writer.name), default=None)


def autoscaler_of(
    namespace: str, kind: str, name: str, autoscalers: Iterable[Autoscaler], *, of: str = ""
) -> Autoscaler | None:
    """Return what is active on a workload: what sets its number of replicas or, with ``of=VPA``, ends its pods.

    The HorizontalPodAutoscaler that a ScaledObject has made is told as the ScaledObject, and one that follows us only
    where no other is there.
    """
    wanted = {of} if of else {HPA, SCALED_OBJECT}
    found = [
        one
        for one in autoscalers
        if one.active
        and one.kind in wanted
        and (one.namespace, one.target_kind, one.target_name) == (namespace, kind, name)
    ]
    found = [one for one in found if not one.made_by] or found
    return min(found, key=lambda one: (one.follows, one.kind != SCALED_OBJECT, one.name), default=None)


def owner_of(
    autoscaler: Autoscaler | None, writer: Writer | None, created_at: float, at: float, settings: OwnershipSettings
) -> Owner | None:
    """Return who owns the number of replicas of a workload; None when it is ours to set.

    Args:
        autoscaler: What scales it, if anything does.
        writer: Who set the number last, if that is noted.
        created_at: When the workload was made.
        at: Now.
        settings: Whom to overrule.
    """
    if autoscaler is not None:
        remedy = f"delete or pause {autoscaler.title}: it goes on writing"
        return Owner(OwnerKind.AUTOSCALER, autoscaler.title, remedy, follows=autoscaler.follows)
    if writer is None or writer.name == settings.field_manager or writer.name in _CONTROLLERS:
        return None
    owner = _by_name(writer, created_at, at, settings)
    return None if owner is None or owner.kind in settings.take_over else owner


def route_writer(kind: str, route: object) -> Writer | None:
    """Return who set the rules of an HTTPRoute or VirtualService last, None where nobody is noted."""
    return writer_of(route, _RULES[kind])


def route_owner(writer: Writer | None, created_at: float, at: float, settings: OwnershipSettings) -> Owner | None:
    """Return who owns the weights of a route; None when they are ours to set. The arguments are as for ``owner_of``."""
    if writer is None or writer.name == settings.field_manager:
        return None
    shifter = _SHIFTERS.get(writer.name)
    if shifter is not None:
        remedy = f"let one of the two shift traffic: take the route out of what {shifter} does"
        return Owner(OwnerKind.SHIFTER, f"{shifter} (field manager {writer.name})", remedy)
    owner = _by_name(writer, created_at, at, settings, "the weights")
    return None if owner is None or owner.kind in settings.take_over else owner


def _by_name(
    writer: Writer, created_at: float, at: float, settings: OwnershipSettings, what: str = "replicas"
) -> Owner | None:
    tool = _TOOLS.get(writer.name)
    if tool is not None or writer.applied:
        name = tool or writer.name
        remedy = f"take {what} out of what {name} applies, or add gitops to take_over"
        return Owner(OwnerKind.GITOPS, f"{name} (field manager {writer.name})", remedy)
    if writer.name.startswith("foresail"):
        remedy = "leave it to one of the two, or add foresail to take_over"
        return Owner(OwnerKind.FORESAIL, f"another Foresail (field manager {writer.name})", remedy)
    until = writer.at + settings.person_holds_s
    if math.isnan(writer.at) or writer.at - created_at <= MADE_WITHIN_S or at >= until:
        return None
    remedy = f"it is left alone until {instant(until)}; add person to take_over to go on now"
    return Owner(OwnerKind.PERSON, f"somebody by {writer.name or 'a client without a name'}", remedy, until)


def _or_never(at: float) -> float:
    return -math.inf if math.isnan(at) else at
