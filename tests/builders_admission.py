"""An admission that works as the API server's does: which policies match a request, and what do their expressions say?

Expressions are evaluated by a real implementation of CEL, over what the API server shows them: a field of a request or
an object that is empty is not there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

cel = pytest.importorskip("cel", reason="expressions are evaluated by a CEL implementation: pip install '.[dev]'")

Object = dict[str, Any]
FORESAIL = "system:serviceaccount:foresail:foresail"


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks of the API server; a subresource comes after a slash in ``resource``."""

    operation: str
    group: str
    resource: str
    namespace: str = "serving"
    name: str = "llama-a100"
    new: Object | None = None
    old: Object | None = None
    user: str = FORESAIL
    extra: Mapping[str, Any] = field(default_factory=dict)

    def shown(self) -> dict[str, Any]:
        """Return what expressions see as ``request``."""
        resource, _, subresource = self.resource.partition("/")
        told = {
            "operation": self.operation,
            "resource": {"group": self.group, "version": "v1", "resource": resource},
            "subResource": subresource,
            "namespace": self.namespace,
            "name": self.name,
            "userInfo": {"username": self.user},
        }
        return {name: value for name, value in told.items() if value != ""}


class Admission:
    """The policies among ``objects`` that are bound."""

    def __init__(self, objects: Sequence[Object]) -> None:
        policies = [found for found in objects if found["kind"] == "ValidatingAdmissionPolicy"]
        bindings = [found for found in objects if found["kind"] == "ValidatingAdmissionPolicyBinding"]
        bound = {one["spec"]["policyName"] for one in bindings if "Deny" in one["spec"]["validationActions"]}
        assert bound == {policy["metadata"]["name"] for policy in policies}
        assert all(policy["spec"]["failurePolicy"] == "Fail" for policy in policies)
        self._policies = policies

    def refusals(self, request: Request) -> list[str]:
        """Return why ``request`` is refused, a message for each reason; empty if it is let through."""
        return [why for policy in self._policies if _matches(policy, request) for why in _said(policy, request)]


def _matches(policy: Object, request: Request) -> bool:
    constraints = policy["spec"]["matchConstraints"]
    return _fits(constraints["resourceRules"], request) and not _fits(
        constraints.get("excludeResourceRules", ()), request
    )


def _fits(rules: Sequence[Object], request: Request) -> bool:
    return any(
        _among(rule["apiGroups"], request.group)
        and _among(rule["operations"], request.operation)
        and (rule["resources"] == ["*/*"] or request.resource in rule["resources"])
        for rule in rules
    )


def _among(words: Sequence[str], word: str) -> bool:
    return "*" in words or word in words


def _said(policy: Object, request: Request) -> list[str]:
    spec = policy["spec"]
    seen: dict[str, Any] = {"request": request.shown(), "object": request.new, "oldObject": request.old}
    if not all(_value(condition["expression"], seen) for condition in spec["matchConditions"]):
        return []
    variables: dict[str, Any] = {}
    seen["variables"] = variables
    for variable in spec.get("variables", ()):
        variables[variable["name"]] = _value(variable["expression"], seen)
    return [told["message"] for told in spec["validations"] if _value(told["expression"], seen) is not True]


def _value(expression: str, seen: Mapping[str, Any]) -> Any:
    """Return what an expression comes to; one that fails refuses, so it is as good as false."""
    try:
        return _compiled(expression).execute(dict(seen))
    except (KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        return f"failed: {error}"


@functools.cache
def _compiled(expression: str) -> Any:
    return cel.compile(expression)
