"""In which form is an answer wanted: whole, as metadata alone, or as the table that kubectl prints?

What asks for metadata alone gets it, for lists, watches and single objects; a list without any objects has null for its
items then, as the API server's own has. Tables are made of kinds whose definition names columns; of others the whole
objects are sent, as a server may that makes no tables.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from simulations.kubernetes_api.kinds import Kind
from simulations.kubernetes_api.refusals import Json
from simulations.kubernetes_api.requests import Aim, Answer
from simulations.kubernetes_api.selectors import field

_PARTIAL = {"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata"}
_AS = re.compile(r";\s*as=(\w+)")
_NAME = {"name": "Name", "type": "string", "format": "name", "description": "", "priority": 0}


def in_form(accept: str, aim: Aim, answer: Answer) -> Answer:
    """Return an answer of success in the form that its reader wants most."""
    wanted = _AS.search(accept.partition(",")[0])
    form = wanted.group(1) if wanted else ""
    if not form or aim.verb not in ("get", "list", "watch") or aim.subresource:
        return answer
    if answer.stream is not None:
        return replace(answer, stream=_reduced(answer.stream)) if form == "PartialObjectMetadata" else answer
    told: Json = json.loads(answer.text)
    match form, "items" in told:
        case "PartialObjectMetadata", False:
            told = _partial(told)
        case "PartialObjectMetadataList", True:
            items = [_partial(one) for one in told["items"]]
            told = {**_PARTIAL, "kind": form, "metadata": told["metadata"], "items": items or None}
        case "Table", _ if aim.kind.columns:
            told = _table(aim.kind, told)
        case _:
            return answer
    return replace(answer, text=json.dumps(told, separators=(",", ":")))


def _partial(value: Mapping[str, Any]) -> Json:
    return {**_PARTIAL, "metadata": value["metadata"]}


def _reduced(stream: Iterator[str]) -> Iterator[str]:
    for piece in stream:
        yield "".join(_reduced_event(line) for line in piece.splitlines() if line)


def _reduced_event(line: str) -> str:
    event = json.loads(line)
    if event["type"] != "ERROR":
        event["object"] = _partial(event["object"])
    return json.dumps(event, separators=(",", ":")) + "\n"


def _table(kind: Kind, told: Json) -> Json:
    named = [
        {
            "name": one["name"],
            "type": one["type"],
            "format": one.get("format", ""),
            "description": one.get("description", ""),
            "priority": one.get("priority", 0),
        }
        for one in kind.columns
    ]
    paths = [one["jsonPath"].removeprefix(".") for one in kind.columns]
    rows = [
        {"cells": [one["metadata"]["name"], *(field(one, path) for path in paths)], "object": _partial(one)}
        for one in told.get("items", [told])
    ]
    head = {"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": told["metadata"]}
    return {**head, "columnDefinitions": [_NAME, *named], "rows": rows}
