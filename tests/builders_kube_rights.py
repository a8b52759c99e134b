"""Tokens with just the rights that settings need, for tests against the simulated API server."""

from __future__ import annotations

from collections.abc import Iterable

from controller.adapters.kube.installation import Right, installation_of, rights_of
from controller.adapters.kube.settings import KubernetesSettings
from controller.modes import ModeSettings
from simulations.kubernetes_api.access import Rule, Subject

KNOWN_AS = "its-token"
USER = "system:serviceaccount:foresail:foresail"
ALL = ModeSettings.model_validate({"scaling": "auto", "traffic": "auto", "healing": "auto"})


def granting(rights: Iterable[Right]) -> Subject:
    rules = [
        Rule((r.verb,), (r.resource,), (r.group,), (r.name,) if r.name else (), (r.namespace,) if r.namespace else ())
        for r in rights
    ]
    return Subject(USER, tuple(rules))


def needed(platform: KubernetesSettings, modes: ModeSettings = ALL) -> tuple[Right, ...]:
    return rights_of(installation_of(platform, modes, may_avoid_nodes=True), platform)
