"""What does a ScalingPolicy ask for, in the words of the settings, and where in it is what cannot be used?"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controller.adapters.kube.json_reading import count, entries, instant, text, under, word
from controller.adapters.kube.policy_schema import KIND, MOST_POOLS, json_name
from controller.adapters.kube.settings import PoolPlace
from controller.modes import WorkloadModes
from controller.setting_problems import Places, SettingProblem, explained
from controller.yaml_source import Key, Value
from policies.fleet import PoolKey, Role
from policies.placement import PoolSettings
from policies.slo import ServiceObjective

_MODELS: tuple[type[BaseModel], ...] = (PoolSettings, ServiceObjective, WorkloadModes)
_FIELDS = {name: json_name(name) for model in _MODELS for name in model.model_fields}
_OF_JSON = {said: name for name, said in _FIELDS.items()}
_LONG_NAMES = re.compile(rf"(?<![.\w])({'|'.join(name for name, said in _FIELDS.items() if name != said)})\b")
_OWN = ("pool", "role", "workload")


@dataclass(frozen=True, slots=True)
class Policy:
    """One ScalingPolicy as the API server has it.

    Attributes:
        uid: Names this object and none that comes after it under the same name.
        generation: Counts changes of what it asks for.
        created_at: Seconds since the epoch; NaN where it is not told.
        spec: What it asks for, as it is written.
        status: What was written of it last.
    """

    namespace: str
    name: str
    uid: str
    generation: int
    created_at: float
    resource_version: str
    spec: Any = field(repr=False)
    status: Any = field(repr=False)

    def __str__(self) -> str:
        return f"{KIND} {self.namespace}/{self.name}"

    @property
    def age_order(self) -> tuple[float, str, str]:
        """Sorts the oldest first; of two of one second the one that comes first by name."""
        return math.inf if math.isnan(self.created_at) else self.created_at, self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a policy asks for.

    Attributes:
        pools: Its pools by key, as under ``policy.pools``.
        objective: None for what holds without it, like each of ``modes``.
        workloads: The workloads that are pools, where it names them, by key of the pool.
        places: Where in it each of them is written.
    """

    model: str
    pools: Mapping[str, PoolSettings]
    objective: ServiceObjective | None
    modes: WorkloadModes
    workloads: Mapping[str, PoolPlace]
    places: Places


class _Spec(BaseModel):
    """A policy in the words of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    pools: Mapping[str, PoolSettings] = Field(description="Pools of replicas that serve the model.")
    objective: ServiceObjective | None = Field(None, description="Objective of the model.")
    modes: WorkloadModes = Field(default_factory=WorkloadModes, description="Modes of the model.")
    workloads: Mapping[str, PoolPlace] = Field(description="The workload that is the pool.")


def read_policy(told: object) -> Policy | None:
    """Return a policy as it is told; None where the object does not even say which one it is."""
    namespace, name, uid = (word(told, "metadata", key) for key in ("namespace", "name", "uid"))
    if not (namespace and name and uid):
        return None
    return Policy(
        namespace,
        name,
        uid,
        count(told, "metadata", "generation") or 0,
        instant(told, "metadata", "creationTimestamp"),
        text(told, "metadata", "resourceVersion"),
        under(told, "spec"),
        under(told, "status"),
    )


def wanted_of(policy: Policy) -> Wanted | tuple[SettingProblem, ...]:
    """Return what ``policy`` asks for, or all that cannot be used of it, each at its place in the object."""
    draft = _Draft(policy)
    if draft.problems:
        return tuple(draft.problems)
    places = Places(draft.places, "spec")
    try:
        spec = _Spec.model_validate_json(json.dumps(draft.tree), strict=True)
    except ValidationError as error:
        return in_its_words(explained(error.errors(), _Spec, places))
    return Wanted(draft.model, spec.pools, spec.objective, spec.modes, spec.workloads, places)


def in_its_words(problems: Iterator[SettingProblem]) -> tuple[SettingProblem, ...]:
    """Return ``problems`` with settings called as policies call them."""
    return tuple(SettingProblem(p.where, "", _renamed(p.what), _renamed(p.remedy)) for p in problems)


def _renamed(said: str) -> str:
    return _LONG_NAMES.sub(lambda match: _FIELDS[match[1]], said)


class _Draft:
    """A policy on its way to the settings: their tree, where each key of it is written, and what is wrong so far.

    Places are told for keys of the policy alone and for those of whole settings.
    """

    def __init__(self, policy: Policy) -> None:
        self.problems: list[SettingProblem] = []
        self.places: dict[Key, str] = {}
        self.model = text(policy.spec, "model")
        self._pools: dict[str, Value] = {}
        self._workloads: dict[str, Value] = {}
        self.tree: dict[str, Value] = {"pools": self._pools, "workloads": self._workloads}
        for name in ("objective", "modes"):
            self._part(name, under(policy.spec, name))
        if not self.model:
            self._problem("spec.model", "is needed and not given", "name the model as its engines do")
            return
        self.places[("policy", "pools")] = "spec.pools"
        told = entries(policy.spec, "pools")
        if not 1 <= len(told) <= MOST_POOLS:
            self._problem("spec.pools", f"has {len(told)} pools, 1 to {MOST_POOLS} needed", "write one entry per pool")
            return
        for number, pool in enumerate(told):
            self._pool(pool, f"spec.pools[{number}]", policy.namespace)

    def _problem(self, where: str, what: str, remedy: str) -> None:
        self.problems.append(SettingProblem(where, "", what, remedy))

    def _part(self, name: str, told: object) -> None:
        """Take over the objective or the modes."""
        if told is None:
            return
        if not isinstance(told, dict):
            self._problem(f"spec.{name}", "must be an object", "write its settings under it, or leave it out")
            return
        self.tree[name] = self._translated(told, f"spec.{name}", (name,), _in_settings(name, self.model))

    def _pool(self, told: Mapping[str, Any], place: str, namespace: str) -> None:
        role = told.get("role", str(Role.UNIFIED))
        try:
            key = str(PoolKey(self.model, text(told, "pool"), Role(role)))
        except ValueError as error:
            self._problem(place, str(error), f"pool is a name without slashes, role one of {', '.join(Role)}")
            return
        if key in self._pools:
            self._problem(place, f"{key} is given twice", "keep one of them")
            return
        own = {name: value for name, value in told.items() if name not in _OWN}
        self._pools[key] = self._translated(own, place, ("pools", key), ("policy", "pools", key))
        workload = told.get("workload")
        if workload is None:
            return
        self.places[("workloads", key)] = f"{place}.workload"
        for name in ("kind", "name"):
            self.places[("workloads", key, name)] = f"{place}.workload.{name}"
        self._workloads[key] = {
            "kind": under(workload, "kind"), "name": under(workload, "name"), "namespace": namespace,
            "model": self.model, "pool": text(told, "pool"), "role": role,
        }  # fmt: skip

    def _translated(self, told: Mapping[str, Any], place: str, *keys: Key) -> Value:
        """Return ``told`` in the words of the settings, and note where it is written, under all of its ``keys``."""
        named = {_OF_JSON.get(said, said): said for said in told}
        for key in keys:
            self.places[key] = place
            self.places |= {(*key, name): f"{place}.{said}" for name, said in named.items()}
        return {name: told[said] for name, said in named.items()}


def _in_settings(part: str, model: str) -> Key:
    return ("policy", "objectives", model) if part == "objective" else ("modes", "workloads", model)
