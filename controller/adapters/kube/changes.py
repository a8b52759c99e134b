"""What is written to an API server, on which condition, and what does it mean when it does not go through?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from controller.adapters.kube.questions import ApiRefused, Question, Unreached
from controller.errors import ActuationError, ObservationError, StalePlan

JSON_PATCH = "application/json-patch+json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

METHODS: Mapping[str, str] = {
    "get": "GET", "list": "GET", "watch": "GET", "create": "POST", "update": "PUT", "patch": "PATCH",
    "delete": "DELETE",
}  # fmt: skip
"""How each verb of a role is sent."""

Fence: TypeAlias = Callable[[float], str]
"""Returns why a write that may take so many seconds may not be sent now; empty when it may."""

_CONFLICT = 409


def unfenced(_: float) -> str:
    """Let everything through: nobody else writes."""
    return ""


@dataclass(frozen=True, slots=True)
class Change:
    """One write.

    Attributes:
        question: Verb and object; the name of what is created stands in its body.
        body: What is sent; an update carries the ``resourceVersion`` that it was made from, a JSON patch tests it.
        content_type: How a patch is meant.
        query: Further parameters.
    """

    question: Question
    body: Mapping[str, Any] | list[dict[str, Any]] | None = None
    content_type: str = "application/json"
    query: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def acting() -> Iterator[None]:
    """Tell what goes wrong with the API within as the ActuationError that it is for whoever acts.

    Raises:
        StalePlan: If the object has changed since it was read.
        ActuationError: If the write was refused, or nobody knows whether it happened.
    """
    try:
        yield
    except ApiRefused as error:
        kind = StalePlan if error.status == _CONFLICT else ActuationError
        raise kind(error.what, error.where, error.remedy) from None
    except Unreached as error:
        unknown = "; it may have happened all the same" if error.may_have_written else ""
        raise ActuationError(f"{error.what}{unknown}", error.where, error.remedy) from None
    except ObservationError as error:
        raise ActuationError(error.what, error.where, error.remedy) from None
