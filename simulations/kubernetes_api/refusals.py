"""In which words does the API server refuse?

Every refusal is a ``Status`` object; code, reason and wording follow ``k8s.io/apimachinery/pkg/api/errors``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypeAlias

from simulations.kubernetes_api.kinds import Kind

Json: TypeAlias = dict[str, Any]


class Refusal(Exception):
    """A request that was answered with a ``Status`` of failure.

    Args:
        code: HTTP status.
        reason: ``metav1.StatusReason``.
        message: What people read.
        details: ``StatusDetails``; ``retryAfterSeconds`` in it becomes the header ``Retry-After``.
    """

    def __init__(self, code: int, reason: str, message: str, details: Json | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message
        self.details = details or {}

    def status(self) -> Json:
        """Return the ``Status`` object."""
        status: Json = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }
        return status


def success(kind: Kind, name: str, uid: str) -> Json:
    """Return the ``Status`` that answers a finished deletion."""
    details = {"name": name, "kind": kind.plural, "uid": uid}
    if kind.group:
        details["group"] = kind.group
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}


def _details(kind: Kind, name: str) -> Json:
    details = {"name": name, "kind": kind.plural}
    if kind.group:
        details["group"] = kind.group
    return details


def not_found(kind: Kind, name: str) -> Refusal:
    """404: there is no object of that name."""
    return Refusal(404, "NotFound", f'{kind.qualified} "{name}" not found', _details(kind, name))


def no_such_resource() -> Refusal:
    """404: nothing is served at that path."""
    return Refusal(404, "NotFound", "the server could not find the requested resource")


def already_exists(kind: Kind, name: str) -> Refusal:
    """409: the name is taken."""
    return Refusal(409, "AlreadyExists", f'{kind.qualified} "{name}" already exists', _details(kind, name))


def conflict(kind: Kind, name: str, why: str = "") -> Refusal:
    """409: the object is not the one that the request was made for."""
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    message = f'Operation cannot be fulfilled on {kind.qualified} "{name}": {why}'
    return Refusal(409, "Conflict", message, _details(kind, name))


def bad_request(message: str) -> Refusal:
    """400: the request cannot be understood."""
    return Refusal(400, "BadRequest", message)


def method_not_allowed() -> Refusal:
    """405: the resource has no such verb."""
    return Refusal(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")


def unsupported_media(*accepted: str) -> Refusal:
    """415: the patch is of a type that the resource does not take."""
    message = "the body of the request was in an unknown format - accepted media types include: " + ", ".join(accepted)
    return Refusal(415, "UnsupportedMediaType", message)


def unauthorized() -> Refusal:
    """401: no such token, or one that has expired."""
    return Refusal(401, "Unauthorized", "Unauthorized")


def forbidden(kind: Kind, name: str, why: str) -> Refusal:
    """403: the request is understood and not allowed."""
    named = f'{kind.qualified} "{name}"' if name else kind.qualified
    return Refusal(403, "Forbidden", f"{named} is forbidden: {why}", _details(kind, name))


def gone(message: str, details: Json | None = None) -> Refusal:
    """410: that resourceVersion is no longer kept."""
    return Refusal(410, "Expired", message, details)


def too_new(asked: int, current: int) -> Refusal:
    """504: the server has not yet reached that resourceVersion."""
    cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return Refusal(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


class Faults422:
    """Fields of one object that are not valid, collected into one 422."""

    def __init__(self) -> None:
        self._causes: list[Json] = []

    def invalid(self, field: str, value: object, why: str) -> None:
        """Note that ``field`` may not have ``value``."""
        shown = f'"{value}"' if isinstance(value, str) else str(value)
        self._add("FieldValueInvalid", field, f"Invalid value: {shown}: {why}")

    def required(self, field: str, why: str = "") -> None:
        """Note that ``field`` is missing."""
        self._add("FieldValueRequired", field, f"Required value: {why}" if why else "Required value")

    def forbidden(self, field: str, why: str) -> None:
        """Note that ``field`` may not be changed so."""
        self._add("FieldValueForbidden", field, f"Forbidden: {why}")

    def too_many(self, field: str, count: int, most: int) -> None:
        """Note that the list at ``field`` is longer than allowed."""
        self._add("FieldValueTooMany", field, f"Too many: {count}: must have at most {most} items")

    def unsupported(self, field: str, value: object, known: Sequence[object]) -> None:
        """Note that ``field`` may have none but ``known`` values."""
        listed = ", ".join(f'"{one}"' for one in known)
        shown = f'"{value}"' if isinstance(value, str) else str(value)
        self._add("FieldValueNotSupported", field, f"Unsupported value: {shown}: supported values: {listed}")

    def duplicate(self, field: str, value: Json) -> None:
        """Note that ``field`` is there already."""
        self._add("FieldValueDuplicate", field, f"Duplicate value: {json.dumps(value)}")

    def _add(self, reason: str, field: str, message: str) -> None:
        self._causes.append({"reason": reason, "message": message, "field": field})

    def refuse(self, kind: Kind, name: str, as_kind: str = "", as_group: str | None = None) -> None:
        """Raise what was noted, if anything was.

        Raises:
            Refusal: 422 that names every field.
        """
        if not self._causes:
            return
        group = kind.group if as_group is None else as_group
        shown = as_kind or kind.kind
        told = [f"{cause['field']}: {cause['message']}" for cause in self._causes]
        listed = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
        qualified = f"{shown}.{group}" if group else shown
        details: Json = {"name": name, "kind": shown, "causes": self._causes}
        if group:
            details["group"] = group
        raise Refusal(422, "Invalid", f'{qualified} "{name}" is invalid: {listed}', details)
