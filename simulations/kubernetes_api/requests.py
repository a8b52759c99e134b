"""Which resource, object and verb does an HTTP request mean?"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import yaml

from simulations.kubernetes_api.access import Attributes
from simulations.kubernetes_api.kinds import Catalogue, Kind
from simulations.kubernetes_api.refusals import Json, Refusal, bad_request, unsupported_media

_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch"}


@dataclass(frozen=True, slots=True)
class Request:
    """What came over HTTP; ``body`` is as it was sent, names of ``headers`` are in lower case."""

    method: str
    target: str
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    def header(self, name: str) -> str:
        """Return a header, empty where there is none."""
        return self.headers.get(name.lower(), "")

    @property
    def sort(self) -> str:
        """The media type of the body, without parameters."""
        return self.header("Content-Type").partition(";")[0].strip()

    def document(self) -> Any:
        """Return the body, which is JSON or (server-side apply) YAML; protobuf and CBOR are not taken.

        Raises:
            Refusal: 400 or 415.
        """
        if self.sort.endswith(("protobuf", "cbor")):
            raise unsupported_media("application/json", "application/yaml")
        try:
            if "yaml" in self.sort and not self.body.lstrip().startswith(b"{"):
                return yaml.safe_load(self.body)
            return json.loads(self.body) if self.body else {}
        except (ValueError, yaml.YAMLError) as error:
            raise bad_request(f"the object provided is unrecognized (must be of type Status): {error}") from None

    def object(self) -> Json:
        """Return the body, which must be an object.

        Raises:
            Refusal: 400.
        """
        document = self.document()
        if not isinstance(document, dict):
            raise bad_request("the object provided is unrecognized: json: cannot unmarshal")
        return document


@dataclass(frozen=True, slots=True)
class Aim:
    """What a request is about; ``name`` empty for a collection."""

    kind: Kind
    verb: str
    namespace: str
    name: str
    subresource: str
    params: Mapping[str, str]

    @property
    def resource(self) -> str:
        """The plural name, with the subresource."""
        return f"{self.kind.plural}/{self.subresource}" if self.subresource else self.kind.plural

    @property
    def key(self) -> tuple[str, str]:
        """The key of the object in the store."""
        return self.namespace if self.kind.namespaced else "", self.name

    @property
    def dry_run(self) -> bool:
        """Whether nothing is to be written."""
        return self.params.get("dryRun") == "All"

    @property
    def attributes(self) -> Attributes:
        """What the request wants to do, for the rules."""
        return Attributes(self.verb, self.kind.group, self.resource, self.namespace, self.name)


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back: text, or ``stream`` for a watch."""

    code: int
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = "application/json"
    stream: Iterator[str] | None = None


def answer(code: int, body: Json) -> Answer:
    """Return a document as an answer."""
    return Answer(code, json.dumps(body, separators=(",", ":")))


def refused(refusal: Refusal) -> Answer:
    """Return a refusal as an answer."""
    after = refusal.details.get("retryAfterSeconds")
    text = json.dumps(refusal.status())
    return Answer(refusal.code, text, {"Retry-After": str(after)} if after else {})


def path_of(target: str) -> tuple[str, dict[str, str]]:
    """Return the path of a request's target and its query; of a parameter given twice the last counts."""
    parts = urlsplit(target)
    return parts.path, dict(parse_qsl(parts.query, keep_blank_values=True))


def aim_of(catalogue: Catalogue, method: str, path: str, params: Mapping[str, str]) -> Aim | None:
    """Return what a request is about, or None where nothing is served at the path."""
    match [unquote(part) for part in path.strip("/").split("/")]:
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            return None
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces" and catalogue.by_path(group, version, rest[2]):
        namespace, rest = rest[1], rest[2:]
    if not rest or len(rest) > 3:
        return None
    kind = catalogue.by_path(group, version, rest[0])
    if kind is None or (namespace and not kind.namespaced):
        return None
    name, subresource = (*rest[1:], "", "")[:2]
    if kind.plural == "namespaces":
        namespace = name
    verb = _verb(method, name, params)
    return Aim(kind, verb, namespace, name, subresource, params)


def _verb(method: str, name: str, params: Mapping[str, str]) -> str:
    if method == "GET":
        if params.get("watch") in ("1", "true"):
            return "watch"
        return "get" if name else "list"
    if method == "DELETE":
        return "delete" if name else "deletecollection"
    return _VERBS.get(method, method.lower())
