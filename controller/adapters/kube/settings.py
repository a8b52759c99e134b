"""Which cluster is read, as whom, how patiently, and how are pools of engines told from what else runs there?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints, model_validator

from controller.adapters.kube.ownership import OwnershipSettings
from controller.adapters.kube.route_pools import RoutePools
from controller.leadership import LeaseSettings
from controller.shard_settings import ShardSettings, lease_name
from policies.fleet import Role

_MIB = 1024 * 1024
_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$"
_PATH = r"^[A-Za-z][A-Za-z0-9]*(\.[A-Za-z][A-Za-z0-9]*)*$"
_LABEL = r"^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$"

Name = Annotated[str, StringConstraints(pattern=_NAME)]
Words = Annotated[frozenset[str], PlainSerializer(sorted, return_type=list[str], when_used="json")]
"""Told in order, so that the same words are told alike."""
KnownKind = Literal["Deployment", "StatefulSet", "LeaderWorkerSet", "Rollout"]
AutoscalerKind = Literal["HorizontalPodAutoscaler", "ScaledObject", "VerticalPodAutoscaler"]


class CustomKind(BaseModel):
    """A kind of workload that is known by its scale subresource alone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field(pattern=r"^[A-Z][A-Za-z0-9]{0,62}$", description="Its kind, as objects bear it.")
    group: Name = Field(description="Its API group.")
    version: Name = Field("v1", description="The version of that group.")
    plural: Name = Field(description="Its name in paths of the API.")
    replicas_path: str = Field(
        "spec.replicas", pattern=_PATH, description="Where it says how many it wants: specReplicasPath of its CRD."
    )
    selector_path: str = Field(
        "status.selector",
        pattern=_PATH,
        description="Where it says, as text, which pods are its own: labelSelectorPath of its CRD.",
    )
    template_path: str = Field("spec.template", pattern=_PATH, description="Where its pod template is, if it has one.")


class PoolPlace(BaseModel):
    """A workload that is a pool, named rather than found by its labels."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = Field("Deployment", description="Kind of the workload: one of kinds or custom_kinds.")
    namespace: Name = Field(description="Its namespace, one of namespaces.")
    name: Name = Field(description="Its name.")
    model: str = Field(min_length=1, max_length=253, description="The model that it serves.")
    pool: str | None = Field(
        None, pattern=r"^[^/\s]{1,253}$", description="Name of the pool; that of the workload if null."
    )
    role: Role = Field(Role.UNIFIED, description="What part of a request it serves.")
    engine_container: str | None = Field(None, description="Container of the engine, instead of the common one.")
    engine_port: int | None = Field(None, gt=0, le=65535, description="Port of the engine, instead of the common one.")
    gpus_per_replica: int | None = Field(
        None, ge=0, description="GPUs of a replica, where its template does not tell them as limits."
    )
    usd_per_replica_hour: float = Field(
        0.0, ge=0, allow_inf_nan=False, description="Price of a replica hour in US dollars; 0 where unknown."
    )


class RoutePlace(BaseModel):
    """The route object whose weights share the requests of a model out among its pools."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["HTTPRoute", "VirtualService"] = Field("HTTPRoute", description="Kind of the route.")
    namespace: Name = Field(description="Its namespace.")
    name: Name = Field(description="Its name.")
    model: str = Field(min_length=1, max_length=253, description="The model whose requests it shares out.")
    backends: dict[str, str] = Field(
        min_length=1,
        description="What each pool of the model (its name, or name/role) is called there: name or namespace/name of "
        "a Service or InferencePool, host or host/subset of an Istio destination. A prefill and a decode pool behind "
        "one InferencePool name the same.",
    )

    @model_validator(mode="after")
    def _pools_are_apart(self) -> RoutePlace:
        RoutePools.of(self.model, self.backends)
        return self


class LeasePlace(LeaseSettings):
    """The lease that replicas of Foresail hold in turn."""

    namespace: Name = Field("default", description="Namespace of the lease: that of Foresail itself.")
    name: Name = Field("foresail", description="Its name.")

    def of_shard(self, shard: ShardSettings) -> LeasePlace:
        """Return the lease that replicas of one shard hold in turn; this one where that has the whole fleet."""
        if shard.whole:
            return self
        return self.model_copy(update={"name": lease_name(self.name, shard.index, shard.of)})

    def check_write(self, timeout_s: float) -> None:
        """Raise ValueError where a write that may take so long is hardly ever over while the lease still holds."""
        if timeout_s + self.retry_s >= self.renew_within_s:
            raise ValueError(
                f"write_timeout_s {timeout_s:g} and lease.retry_s {self.retry_s:g} leave no time to write within "
                f"lease.renew_within_s {self.renew_within_s:g}"
            )


class KubernetesSettings(BaseModel):
    """The cluster that a fleet runs in, and what of it is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["kubernetes"] = Field("kubernetes", description="Which platform: a Kubernetes cluster.")
    kubeconfig: Path | None = Field(
        None,
        description="File that says how the API is reached; if null, what a pod is given by the cluster, or else the "
        "user's own file.",
    )
    context: str | None = Field(None, description="Context of that file; its current one if null.")
    namespaces: tuple[Annotated[str, StringConstraints(pattern=rf"{_NAME}|^\*$")], ...] = Field(
        ("default",),
        min_length=1,
        description="Namespaces that are read; * alone reads all, which wants rights over the whole cluster.",
    )

    kinds: tuple[KnownKind, ...] = Field(
        ("Deployment", "StatefulSet"), description="Kinds of workloads that are read; each wants rights of its own."
    )
    custom_kinds: tuple[CustomKind, ...] = Field((), description="Further kinds that have a scale subresource.")
    pools: tuple[PoolPlace, ...] = Field((), description="Workloads that are pools whatever their labels say.")
    by_labels: bool = Field(
        True, description="Whether workloads are pools that have the label foresail.dev/model, after prefix."
    )
    by_inference_pools: bool = Field(
        False,
        description="Whether workloads are pools whose pods an InferencePool selects; wants rights to read those.",
    )
    prefix: str = Field("foresail.dev", pattern=_NAME, description="What comes before the slash in labels of ours.")
    role_label: str = Field(
        "llm-d.ai/role",
        pattern=_LABEL,
        description="Label of pod templates that tells prefill from decode where an InferencePool selects both.",
    )
    serving_label: str = Field(
        "foresail.dev/serving",
        pattern=_LABEL,
        description="Label of pods that is true while they take traffic and false while they are taken out of it.",
    )
    engine_container: str | None = Field(
        None, description="Container of the engine; if null the only one of a pod, or its only one with GPUs."
    )
    engine_port: int | None = Field(
        None,
        gt=0,
        le=65535,
        description="Port of the engine; if null that of the InferencePool, or the container's only one or the one "
        "named http.",
    )
    engine_token_file: Path | None = Field(
        None,
        description="File with the bearer token that engines want (vLLM's --api-key), for canary requests; it is read "
        "again for each.",
    )
    gpu_resources: Words = Field(
        frozenset(
            (
                "nvidia.com/gpu", "amd.com/gpu", "gpu.intel.com/xe", "gpu.intel.com/i915", "habana.ai/gaudi",
                "google.com/tpu", "aws.amazon.com/neuron",
            )
        ),
        description="Resources of containers that count as GPUs.",
    )  # fmt: skip
    nodes: bool = Field(False, description="Whether nodes are read, which wants rights over the whole cluster.")
    leaving_taints: Words = Field(
        frozenset(
            (
                "ToBeDeletedByClusterAutoscaler", "karpenter.sh/disrupted", "node.kubernetes.io/out-of-service",
                "node.cloudprovider.kubernetes.io/shutdown", "cloud.google.com/impending-node-termination",
                "aws-node-termination-handler/spot-itn", "aws-node-termination-handler/asg-lifecycle-termination",
                "aws-node-termination-handler/scheduled-maintenance",
            )
        ),
        description="Keys of taints of nodes that are about to be taken away.",
    )  # fmt: skip

    autoscalers: tuple[AutoscalerKind, ...] = Field(
        ("HorizontalPodAutoscaler",),
        description="Kinds of autoscalers that are read, to leave alone what they scale; each wants rights of its own, "
        "and where one cannot be read no number is changed.",
    )
    ownership: OwnershipSettings = Field(
        default_factory=OwnershipSettings, description="Who else may set the number of replicas, and how we are called."
    )
    routes: tuple[RoutePlace, ...] = Field((), description="Routes whose weights are read and set, one per model.")
    delete_unevictable: bool = Field(
        False,
        description="Whether a sick pod is deleted where its eviction is refused for good; a disruption budget that "
        "says not now is obeyed all the same.",
    )
    events: bool = Field(True, description="Whether acts and refusals are told as Events of the objects concerned.")
    policies: bool = Field(
        False, description="Whether ScalingPolicy objects are read beside this file, and their status is written."
    )
    pinned_models: Words = Field(
        frozenset(), description="Models of which this file alone decides: a ScalingPolicy of one is not followed."
    )
    lease: LeasePlace | None = Field(
        None, description="The lease that replicas of Foresail hold in turn; null where only one runs."
    )

    connect_timeout_s: float = Field(3.0, gt=0, le=60, description="Longest wait for a connection, in seconds.")
    timeout_s: float = Field(10.0, gt=0, le=120, description="Longest that one whole answer may take, in seconds.")
    write_timeout_s: float = Field(
        4.0,
        gt=0,
        le=60,
        description="Longest that a write may take, in seconds; with a lease it must be over while that still holds.",
    )
    exec_timeout_s: float = Field(
        10.0,
        gt=0,
        le=60,
        description="Longest that the plugin for credentials may run that the kubeconfig names, in seconds; it is run "
        "before its token is over, and a request waits for it no longer than for an answer.",
    )
    watch_s: int = Field(
        30,
        ge=1,
        le=600,
        description="How long a watch is asked to last, in seconds. A server marks how far it has got before the end "
        "of each, so this is also how soon a watch that hangs is noticed.",
    )
    stale_after_s: float = Field(
        90.0,
        gt=0,
        description="Time in seconds without word from the API server after which what is known of a kind of object "
        "is no longer believed, and no pools are told: three watches.",
    )
    resync_s: float = Field(
        1800.0, gt=0, description="Time in seconds after which everything is listed anew, whatever a watch has said."
    )
    longest_backoff_s: float = Field(
        30.0, gt=0, description="Longest wait before a list or watch that failed is tried again, in seconds."
    )
    catch_up_s: float = Field(
        5.0, ge=0, description="Longest wait for the cache to show a write of our own, in seconds; a tick has fifteen."
    )
    page_size: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Objects of one page of a list. Pages are held whole while they are read: with 500 the process "
        "grows by twice as much.",
    )
    max_answer_mib: float = Field(32.0, gt=0, le=1024, description="Largest page of a list, in MiB; 100 pods need 1.")
    max_objects: int = Field(
        50_000, gt=0, description="Most objects of one kind; more is the wrong cluster, or too many namespaces."
    )

    @property
    def max_answer_bytes(self) -> int:
        """Largest page of a list, in bytes."""
        return int(self.max_answer_mib * _MIB)

    @model_validator(mode="after")
    def _all_or_named(self) -> KubernetesSettings:
        if "*" in self.namespaces and len(self.namespaces) > 1:
            raise ValueError("namespaces: * reads all of them, so it stands alone")
        if len(set(self.namespaces)) < len(self.namespaces):
            raise ValueError("namespaces: one is named twice")
        return self

    @model_validator(mode="after")
    def _kinds_are_known(self) -> KubernetesSettings:
        known = [*self.kinds, *(kind.kind for kind in self.custom_kinds)]
        if len(set(known)) < len(known):
            raise ValueError("kinds and custom_kinds name a kind twice")
        for number, pool in enumerate(self.pools):
            if pool.kind not in known:
                raise ValueError(f"pools.{number}: {pool.kind} is none of kinds and custom_kinds")
            if "*" not in self.namespaces and pool.namespace not in self.namespaces:
                raise ValueError(f"pools.{number}: {pool.namespace} is none of namespaces")
        return self

    @model_validator(mode="after")
    def _routes_are_apart(self) -> KubernetesSettings:
        models = [route.model for route in self.routes]
        places = [(route.kind, route.namespace, route.name) for route in self.routes]
        if len(set(models)) < len(models) or len(set(places)) < len(places):
            raise ValueError("routes: a model or a route is named twice")
        return self

    @model_validator(mode="after")
    def _writes_end_in_time(self) -> KubernetesSettings:
        if self.lease is not None:
            self.lease.check_write(self.write_timeout_s)
        return self

    @model_validator(mode="after")
    def _heard_often_enough(self) -> KubernetesSettings:
        if self.stale_after_s < 2 * self.watch_s:
            raise ValueError(
                f"stale_after_s {self.stale_after_s:g} is less than two watches of {self.watch_s} s: one that fails "
                "would be enough to blind us"
            )
        return self
