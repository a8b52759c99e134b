"""Which workloads are pools of engines, of which model and in which role?

A workload that the settings name is what they say; else what its own labels say; else what an InferencePool that
selects its pods says. Where two claim to be the same pool the older one is it, so that nobody displaces a pool by
labelling another workload.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from controller.adapters.kube.json_reading import Refused, entries, subject, under, word, words
from controller.adapters.kube.pods import Engine
from controller.adapters.kube.settings import KubernetesSettings, PoolPlace
from controller.adapters.kube.templates import port_of
from controller.adapters.kube.workloads import Workload
from controller.shard_settings import ShardSettings
from policies.fleet import PoolKey, Role

_LONGEST_NAME = 253
_MOST_USD = 1e6
_ROLES = {"prefill": Role.PREFILL, "decode": Role.DECODE}


@dataclass(frozen=True, slots=True)
class InferencePool:
    """What is kept of an InferencePool.

    Attributes:
        model: What its annotation or label of ours says, or else its name.
        selector: Labels of the pods behind it.
        port: Where its engines are asked; None where it tells several or none.
    """

    namespace: str
    name: str
    model: str
    selector: Mapping[str, str]
    port: int | None


@dataclass(frozen=True, slots=True)
class Place:
    """What is known of a pool beyond its workload.

    Attributes:
        worker: How the engine is told in the other pods of a replica of several.
        gpus: GPUs of a replica, where somebody says so; else None.
        note: What is to be said of it; empty where there is nothing.
    """

    key: PoolKey
    engine: Engine
    worker: Engine
    gpus: int | None = None
    usd_per_replica_hour: float = 0.0
    note: str = ""


def read_inference_pool(told: object, prefix: str) -> InferencePool | Refused:
    """Return what is kept of the InferencePool that the API server tells of."""
    namespace, name = word(told, "metadata", "namespace"), word(told, "metadata", "name")
    selector = words(told, "spec", "selector", "matchLabels")
    if not (namespace and name and selector) or under(told, "spec", "selector", "matchExpressions"):
        return Refused(subject(told, "InferencePool"), "without name, or without labels that select its pods")
    ports = entries(told, "spec", "targetPorts")
    said = _said(words(told, "metadata", "labels"), words(told, "metadata", "annotations"), f"{prefix}/model")
    return InferencePool(
        namespace, name, said or name, selector, port_of(ports[0], "number") if len(ports) == 1 else None
    )


def discover(
    workloads: Iterable[Workload], inference_pools: Sequence[InferencePool], settings: KubernetesSettings
) -> tuple[Mapping[str, Place], tuple[Refused, ...]]:
    """Return the place of each workload that is a pool, by its uid, and what was not taken for one and why."""
    named = {(pool.kind, pool.namespace, pool.name): pool for pool in settings.pools}
    missing = set(named)
    found: dict[PoolKey, tuple[Workload, Place]] = {}
    refused: list[Refused] = []
    for workload in sorted(workloads, key=lambda one: (one.created_at, one.namespace, one.name, one.kind)):
        place = named.get((workload.kind, workload.namespace, workload.name))
        missing.discard((workload.kind, workload.namespace, workload.name))
        taken = _by_name(workload, place, settings) if place else _by_marks(workload, inference_pools, settings)
        if isinstance(taken, Refused):
            refused.append(taken)
        elif taken is not None:
            first = found.get(taken.key)
            # A workload that the settings name is what they say, however new it is.
            if first is None or (place and (first[0].kind, first[0].namespace, first[0].name) not in named):
                found[taken.key] = workload, taken
                loser = first[0] if first else None
            else:
                loser = workload
            if loser is not None:
                refused.append(Refused(loser.title, f"another workload is {taken.key}"))
    refused += [Refused(f"{kind} {namespace}/{name}", "is not there") for kind, namespace, name in sorted(missing)]
    return {workload.uid: place for workload, place in found.values()}, tuple(refused)


def of_shard(
    workloads: Iterable[Workload], places: Mapping[str, Place], shard: ShardSettings, prefix: str
) -> tuple[Mapping[str, Place], tuple[Refused, ...]]:
    """Return those of ``places`` that a shard may act on, and what is to be said of others of its models.

    With several shards the object itself has to say of which model it is. Then whoever reads it anew before a write
    sees whose it is, and two shards that hear of a change at different times do not both take it for their own.
    """
    if shard.whole:
        return places, ()
    ours: dict[str, Place] = {}
    refused: list[Refused] = []
    for workload in workloads:
        place = places.get(workload.uid)
        if place is None or not shard.has(place.key.model):
            continue
        if model_said(workload, prefix) == place.key.model:
            ours[workload.uid] = place
        else:
            what = f"with several shards its own label has to say whose it is: label it {prefix}/model"
            refused.append(Refused(workload.title, f"{what}={place.key.model}"))
    return ours, tuple(refused)


def model_said(workload: Workload, prefix: str) -> str:
    """Return the model that a workload itself says it serves; empty where it says none."""
    return _said(workload.labels, workload.annotations, f"{prefix}/model")


def _by_name(workload: Workload, pool: PoolPlace, settings: KubernetesSettings) -> Place | Refused:
    key = _key(pool.model, pool.pool or workload.name, pool.role)
    if key is None:
        return Refused(workload.title, "its pool cannot be named so")
    container = pool.engine_container or settings.engine_container or ""
    place = _place(workload, key, container, pool.engine_port or settings.engine_port, None, settings)
    return replace(place, gpus=pool.gpus_per_replica, usd_per_replica_hour=pool.usd_per_replica_hour)


def _by_marks(
    workload: Workload, inference_pools: Sequence[InferencePool], settings: KubernetesSettings
) -> Place | Refused | None:
    """Return what labels make of a workload; None where none of them makes it a pool."""
    prefix = settings.prefix
    labelled = settings.by_labels and f"{prefix}/model" in workload.labels
    behind = [pool for pool in inference_pools if _selects(pool, workload)] if settings.by_inference_pools else []
    if not labelled and not behind:
        return None
    if not labelled and len({pool.model for pool in behind}) > 1:
        return Refused(workload.title, f"selected by InferencePools of {len(behind)} models: label it {prefix}/model")

    def said(what: str) -> str:
        return _said(workload.labels, workload.annotations, f"{prefix}/{what}")

    role = said("role") or Role.UNIFIED if labelled else _role_of(workload, settings)
    key = _key(said("model") if labelled else behind[0].model, said("pool") or workload.name, role)
    if key is None:
        return Refused(workload.title, f"{prefix}/model, {prefix}/pool or {prefix}/role is none that can be used")
    container = said("engine-container") or settings.engine_container or ""
    ports = {pool.port for pool in behind}
    place = _place(workload, key, container, settings.engine_port, ports.pop() if len(ports) == 1 else None, settings)
    return replace(place, usd_per_replica_hour=_price(said("usd-per-replica-hour")))


def _place(
    workload: Workload, key: PoolKey, wanted: str, port: int | None, pool_port: int | None, settings: KubernetesSettings
) -> Place:
    """Return the place of a workload whose engine's container is ``wanted``, or else the one that stands out."""
    engine, note = workload.template.engine(wanted) if workload.template else (None, "")
    name = engine.name if engine else wanted
    known_port = port or pool_port or (engine.port if engine else None)
    worker, _ = workload.worker.engine(wanted) if workload.worker else (engine, "")
    label = settings.serving_label
    return Place(key, Engine(name, known_port, label), Engine(worker.name if worker else name, None, label), note=note)


def _said(labels: Mapping[str, str], annotations: Mapping[str, str], name: str) -> str:
    """Return what an annotation or, without one, a label says: values of labels cannot hold slashes."""
    return (annotations.get(name) or labels.get(name) or "").strip()


def _key(model: str, pool: str, role: str) -> PoolKey | None:
    """Return the key of a pool; None where these words cannot name one."""
    names = (model, pool)
    if any(len(name) > _LONGEST_NAME or not name.isprintable() or name != name.strip() for name in names):
        return None
    try:
        return PoolKey(model, pool, Role(role))
    except ValueError:
        return None


def _selects(pool: InferencePool, workload: Workload) -> bool:
    labels = workload.template.labels if workload.template else {}
    return pool.namespace == workload.namespace and all(labels.get(k) == said for k, said in pool.selector.items())


def _role_of(workload: Workload, settings: KubernetesSettings) -> Role:
    labels = workload.template.labels if workload.template else {}
    return _ROLES.get(labels.get(settings.role_label, ""), Role.UNIFIED)


def _price(told: str) -> float:
    try:
        price = float(told or 0)
    except ValueError:
        return 0.0
    return price if 0 <= price <= _MOST_USD else 0.0
