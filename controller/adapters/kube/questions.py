"""What is asked of an API server, and what does it mean when it says no?

::

    ObservationError
    |- Unreached        no whole answer came; another try may bring one
    |- NoWay            it was not asked: how, or as whom, cannot be told now
    `- ApiRefused       the server answered, and not with what was asked for
"""

from __future__ import annotations

from dataclasses import dataclass

from controller.adapters.kube.kinds import Resource
from controller.errors import ObservationError

_TOLD = 300
_LONGEST_RETRY_AFTER_S = 300.0


class Unreached(ObservationError):
    """No whole answer came; another try may bring one.

    Args:
        what: What kept it from coming.
        where: The question.
        remedy: What to do about it.
        may_have_written: Whether what was asked for would have changed something.
    """

    def __init__(self, what: str, where: str, remedy: str = "", *, may_have_written: bool = False) -> None:
        super().__init__(what, where, remedy)
        self.may_have_written = may_have_written


class NoWay(ObservationError):
    """It was not asked, since how the API is reached, or as whom it is asked, cannot be told now."""


class ApiRefused(ObservationError):
    """The API server answered, and not with what was asked for.

    Args:
        what: What it said.
        where: The question.
        remedy: What to do about it.
        status: Of HTTP, or of an error within a watch.
        retry_after_s: How long it wants to be left alone; 0 where it does not say.
    """

    def __init__(self, what: str, where: str, remedy: str, status: int, retry_after_s: float = 0.0) -> None:
        super().__init__(what, where, remedy)
        self.status, self.retry_after_s = status, retry_after_s


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: ``verb`` as in rules of roles, of one object, or of all namespaces where none is given."""

    verb: str
    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    def __str__(self) -> str:
        name = f" {self.name}" if self.name else ""
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self._title}{name}{where}"

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.verb not in ("get", "list", "watch")

    @property
    def path(self) -> str:
        """Where it is asked."""
        return "/".join(filter(None, (self.resource.path(self.namespace), self.name, self.subresource)))

    @property
    def _title(self) -> str:
        resource = self.resource
        plural = f"{resource.plural}/{self.subresource}" if self.subresource else resource.plural
        return f"{plural}.{resource.group}" if resource.group else plural

    @property
    def right(self) -> str:
        """The rule that allows it."""
        place = f"a Role in namespace {self.namespace}" if self.namespace else "a ClusterRole"
        group = f'"{self.resource.group}"'
        plural = f"{self.resource.plural}/{self.subresource}" if self.subresource else self.resource.plural
        return f"{place} with apiGroups: [{group}], resources: [{plural}], verbs: [{self.verb}]"

    @property
    def accept(self) -> str:
        """The form in which the answer is wanted: plain, or metadata alone where that is enough."""
        if not self.resource.metadata_only or self.name:
            return "application/json"
        form = "PartialObjectMetadataList" if self.verb == "list" else "PartialObjectMetadata"
        return f"application/json;as={form};g=meta.k8s.io;v=v1,application/json"


def refusal(status: int, said: str, question: Question, server: str, retry_after_s: float = 0.0) -> ApiRefused:
    """Return what a status means; ``said`` are the server's words."""
    words = " ".join(said.split())[:_TOLD] or "no reason given"
    remedy = ""
    if status == 401:
        remedy = f"{server} does not know us: is the token or certificate current, and of this cluster?"
    elif status == 403:
        remedy = f"grant it: {question.right}"
    elif 300 <= status < 400:
        words, remedy = "redirected instead of answered", "give the address of the API server itself"
    elif status == 404 and not question.name:
        remedy = f"is {question.resource.kind} installed in the cluster, in version {question.resource.version}?"
    return ApiRefused(
        f"HTTP {status}: {words}", str(question), remedy, status, min(retry_after_s, _LONGEST_RETRY_AFTER_S)
    )
