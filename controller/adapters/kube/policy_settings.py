"""What holds when ScalingPolicy objects are laid over the settings file, and which of them are not followed, and why?

Each policy is judged by itself, the oldest first, as the settings file would be: what one of them says can make no
other one invalid, and one that is left out changes nothing. Where two say different things of the same pool, objective,
mode or workload, the older one holds. A policy holds before the file, but for models that the file pins. Where the
newest version of a policy cannot be followed, its last one that could stays in force.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from controller.adapters.kube.policy_objects import Policy, Wanted, in_its_words, wanted_of
from controller.adapters.kube.settings import KubernetesSettings, PoolPlace
from controller.modes import ActionClass, ModeSettings, WorkloadModes
from controller.setting_problems import SettingProblem, explained
from controller.settings import Settings
from policies.fleet import PoolKey
from policies.settings import PolicySettings
from policies.slo import ServiceObjective

ACCEPTED, INVALID, CONFLICT, PINNED = "Accepted", "Invalid", "Conflict", "Pinned"
_MOST_PROBLEMS = 5
_LONGEST = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one policy.

    Attributes:
        policy: Its newest version.
        reason: ``Accepted``, or in a word why the newest version is not followed.
        message: The same in a sentence, with the place in the object.
        in_force: The version that is followed: the newest, an earlier one, or none.
        model: Of that version; empty without one.
        pools: Its pools, likewise.
    """

    policy: Policy
    reason: str
    message: str
    in_force: Policy | None = None
    model: str = ""
    pools: tuple[PoolKey, ...] = ()

    @property
    def accepted(self) -> bool:
        """Whether the newest version is followed."""
        return self.reason == ACCEPTED


@dataclass(frozen=True, slots=True)
class Overlaid:
    """The settings that hold, and what became of each policy, the oldest first.

    ``good`` has the last version of each that could be followed, by uid, for the next time.
    """

    settings: Settings
    verdicts: tuple[Verdict, ...] = ()
    good: Mapping[str, Policy] = field(default_factory=dict)


def overlay(settings: Settings, policies: Iterable[Policy], good: Mapping[str, Policy]) -> Overlaid:
    """Lay ``policies`` over ``settings``; of those whose newest version cannot be followed the one in ``good``.

    Raises:
        ValueError: If what each part allows cannot be together; that would be an error of ours.
    """
    pile = _Pile(settings)
    verdicts: list[Verdict] = []
    known: dict[str, Policy] = {}
    for policy in sorted(policies, key=lambda each: each.age_order):
        verdict, earlier = pile.add(policy), good.get(policy.uid)
        if not verdict.accepted and earlier is not None:
            known[policy.uid] = earlier
            if earlier.generation != policy.generation and (again := pile.add(earlier)).in_force is not None:
                said = f"{verdict.message}; generation {earlier.generation} stays in force"
                verdict = Verdict(policy, verdict.reason, said, earlier, again.model, again.pools)
        if verdict.accepted:
            known[policy.uid] = policy
        verdicts.append(verdict)
    return Overlaid(pile.settings(), tuple(verdicts), known)


class _Pile:
    """The settings file with the policies laid over it so far; ``_holders`` says whose each thing is."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings
        platform: object = settings.platform
        self._platform = platform if isinstance(platform, KubernetesSettings) else None
        self._pools: dict[str, dict[str, Any]] = {}
        for key, pool in settings.policy.pools.items():
            self._pools.setdefault(PoolKey.parse(key).model, {})[key] = pool
        self._objectives: dict[str, ServiceObjective] = dict(settings.policy.objectives)
        self._modes: dict[str, WorkloadModes] = dict(settings.modes.workloads)
        named = self._platform.pools if self._platform else ()
        self._workloads: dict[str, PoolPlace] = {_pool_of(place): place for place in named}
        self._named: set[str] = set()
        self._taken = {_object(place): key for key, place in self._workloads.items()}
        self._holders: dict[tuple[str, ...], tuple[Policy, object]] = {}

    def add(self, policy: Policy) -> Verdict:
        """Lay ``policy`` over the rest, unless something stands against it."""
        wanted = wanted_of(policy)
        if isinstance(wanted, tuple):
            return _refused(policy, INVALID, wanted)
        if self._platform and wanted.model in self._platform.pinned_models:
            what = f"platform.pinned_models of the settings file has {wanted.model}"
            return Verdict(policy, PINNED, f"spec.model: {what}: that alone decides")
        claims = dict(_claims(wanted))
        conflicts = tuple(self._conflicts(claims, policy))
        if conflicts:
            return _refused(policy, CONFLICT, conflicts)
        problems = (*self._unusable_workloads(wanted), *self._tried(wanted))
        if problems:
            return _refused(policy, INVALID, problems)
        replaced = sorted(self._pools.get(wanted.model, {}).keys() & wanted.pools.keys())
        for claim, (value, _) in claims.items():
            self._holders.setdefault(claim, (policy, value))
        self._pools.setdefault(wanted.model, {}).update(wanted.pools)
        if wanted.objective is not None:
            self._objectives[wanted.model] = wanted.objective
        self._modes[wanted.model] = self._merged(wanted)
        for key, place in wanted.workloads.items():
            before = self._workloads.get(key)
            if before is not None:
                self._taken.pop(_object(before), None)
            self._workloads[key], self._taken[_object(place)] = _placed(before, place), key
            self._named.add(key)
        message = f"in place of what the settings file says of {', '.join(replaced)}" if replaced else "in force"
        pools = tuple(map(PoolKey.parse, wanted.pools))
        return Verdict(policy, ACCEPTED, message, policy, wanted.model, pools)

    def settings(self) -> Settings:
        """Return everything together, checked once more; the settings as they were where no policy is in force."""
        if not self._holders:
            return self._base
        base = self._base
        pools = {key: pool for of_model in self._pools.values() for key, pool in of_model.items()}
        policy = {**dict(base.policy), "pools": pools, "objectives": self._objectives}
        modes = {**dict(base.modes), "workloads": self._modes}
        told = {**dict(base), "policy": PolicySettings(**policy), "modes": ModeSettings(**modes), "platform": None}
        platform: object = base.platform
        if self._platform:
            others = [place for place in self._platform.pools if _pool_of(place) not in self._named]
            named = [self._workloads[key] for key in sorted(self._named)]
            platform = KubernetesSettings(**{**dict(self._platform), "pools": (*others, *named)})
        return Settings.model_validate(told).model_copy(update={"platform": platform})

    def _conflicts(
        self, claims: Mapping[tuple[str, ...], tuple[object, str]], policy: Policy
    ) -> Iterable[SettingProblem]:
        for claim, (value, place) in claims.items():
            holder = self._holders.get(claim)
            if holder is None or (holder[1] == value and claim[0] != "pool"):
                continue
            what = f"{' '.join(claim)} is already set by {holder[0]}"
            yield SettingProblem(place, "", what, "the older policy holds: change or delete one of them")

    def _unusable_workloads(self, wanted: Wanted) -> Iterable[SettingProblem]:
        platform = self._platform
        known = {*platform.kinds, *(each.kind for each in platform.custom_kinds)} if platform else set()
        own: dict[tuple[str, str, str], str] = {}
        for key, place in wanted.workloads.items():
            where = wanted.places.where(("workloads", key, "kind"))
            pool = self._taken.get(_object(place)) or own.setdefault(_object(place), key)
            if place.kind not in known:
                remedy = f"read here: {', '.join(sorted(known)) or 'none'}; platform.kinds says which"
                yield SettingProblem(where, "", f"{place.kind} is no kind of workload that is read", remedy)
            elif pool != key:
                what = f"{place.kind} {place.name} is the pool {pool} already"
                yield SettingProblem(where, "", what, "name another workload")

    def _tried(self, wanted: Wanted) -> tuple[SettingProblem, ...]:
        """Return what whole settings would refuse that have nothing but the model of a policy."""
        model = wanted.model
        pools = {**self._pools.get(model, {}), **wanted.pools}
        told = {
            **dict(self._base),
            "policy": {**dict(self._base.policy), "pools": pools, "objectives": {}},
            "modes": {"workloads": {model: self._merged(wanted)}},
            "platform": None,
        }
        try:
            Settings.model_validate(told)
        except ValidationError as error:
            return in_its_words(explained(error.errors(), Settings, wanted.places))
        return ()

    def _merged(self, wanted: Wanted) -> WorkloadModes:
        """Return the modes of a model: class by class those of the policy, or those that hold without it."""
        before = self._modes.get(wanted.model, WorkloadModes())
        given = {name: mode for name, mode in wanted.modes if mode is not None}
        return before.model_copy(update=given)


def _claims(wanted: Wanted) -> Iterable[tuple[tuple[str, ...], tuple[object, str]]]:
    """Yield what a policy decides of, each with what it says and where; pools are one policy's alone."""
    where, model = wanted.places.where, wanted.model
    for key, pool in wanted.pools.items():
        yield ("pool", key), (pool, where(("pools", key)))
    if wanted.objective is not None:
        yield ("objective of", model), (wanted.objective, where(("objective",)))
    for action in ActionClass:
        mode = getattr(wanted.modes, action.value)
        if mode is not None:
            yield ("mode of", action.value, "of", model), (mode, where(("modes", action.value)))


def _refused(policy: Policy, reason: str, problems: tuple[SettingProblem, ...]) -> Verdict:
    said = [f"{p.where}: {p.what}" + (f" ({p.remedy})" if p.remedy else "") for p in problems[:_MOST_PROBLEMS]]
    more = len(problems) - len(said)
    text = "; ".join([*said, *([f"and {more} more"] if more else [])])
    return Verdict(policy, reason, text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}...")


def _pool_of(place: PoolPlace) -> str:
    return str(PoolKey(place.model, place.pool or place.name, place.role))


def _object(place: PoolPlace) -> tuple[str, str, str]:
    return place.kind, place.namespace, place.name


def _placed(before: PoolPlace | None, place: PoolPlace) -> PoolPlace:
    """Return the place of a pool; what the file says of its engine and price stays."""
    if before is None:
        return place
    return before.model_copy(update={"kind": place.kind, "namespace": place.namespace, "name": place.name})
