"""What does a list answer, page by page, and at which resourceVersion?

As the API concepts page has it: no ``resourceVersion`` means the most recent state, ``0`` whatever is at hand, a number
"not older than" that (504 where the server is not there yet) or, with ``resourceVersionMatch=Exact``, that very state.
Every page of a paged list is of the state that its first page was of; a ``continue`` token whose state has been
compacted is 410.
"""

from __future__ import annotations

import base64
import json
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

from simulations.kubernetes_api.kinds import Kind
from simulations.kubernetes_api.refusals import Json, bad_request, gone, too_new
from simulations.kubernetes_api.selectors import object_test
from simulations.kubernetes_api.store import Key, Store, Stored, TooOld


@dataclass(frozen=True, slots=True)
class Page:
    """One answer to a list."""

    items: list[Stored]
    version: int
    token: str
    remaining: int | None

    def text(self, kind: Kind) -> str:
        """The list as JSON; only what somebody has defined says its kind in each item."""
        metadata: Json = {"resourceVersion": str(self.version)}
        if self.token:
            metadata["continue"] = self.token
        if self.remaining:
            metadata["remainingItemCount"] = self.remaining
        head = json.dumps({"kind": f"{kind.kind}List", "apiVersion": kind.api_version, "metadata": metadata})
        items = ",".join(item.text if kind.custom else item.untyped for item in self.items)
        return f'{head[:-1]},"items":[{items}]}}'


def number(text: str) -> int:
    """Return a resourceVersion, or another count of a query, as a number.

    Raises:
        Refusal: 400 for anything else.
    """
    if not text.isdigit():
        raise bad_request(f'strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def _token(version: int, after: Key) -> str:
    return base64.urlsafe_b64encode(json.dumps({"v": version, "after": after}).encode()).decode()


def _read_token(token: str) -> tuple[int, Key]:
    try:
        told = json.loads(base64.urlsafe_b64decode(token.encode()))
        namespace, name = told["after"]
        return int(told["v"]), (str(namespace), str(name))
    except (ValueError, KeyError, TypeError) as error:
        raise bad_request(f"continue key is not valid: {error}") from None


def _state(store: Store, kind: Kind, version: int, *, continued: bool) -> tuple[list[Key], dict[Key, Stored]]:
    try:
        return store.at(kind, version)
    except TooOld:
        if not continued:
            raise gone("The resourceVersion for the provided list is too old.") from None
        raise gone(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list "
            "without the continue parameter."
        ) from None


def listed(store: Store, kind: Kind, namespace: str, params: Mapping[str, str]) -> Page:
    """Return one page of a list; ``namespace`` empty for all of them.

    Raises:
        Refusal: 400 for parameters that are not valid, 410 for a state no longer kept, 504 for one not yet reached.
    """
    test = object_test(kind, params.get("labelSelector", ""), params.get("fieldSelector", ""))
    limit = number(params.get("limit") or "0")
    with store.changed:
        version, after = _starting_point(store, params)
        order, objects = _state(store, kind, version, continued=after is not None)
        start = bisect_right(order, after) if after is not None else 0
        if namespace:
            start = max(start, bisect_left(order, (namespace, "")))
            order = order[start : bisect_left(order, (namespace + "\0", ""))]
        else:
            order = order[start:]
        if test is not None:
            order = [key for key in order if test(objects[key].value)]
        keys = order[:limit] if limit else order
        items = [objects[key] for key in keys]
    left = len(order) - len(keys)
    return Page(
        items=items,
        version=version,
        token=_token(version, keys[-1]) if left else "",
        remaining=left if left and test is None else None,
    )


def _starting_point(store: Store, params: Mapping[str, str]) -> tuple[int, Key | None]:
    token, asked = params.get("continue", ""), params.get("resourceVersion", "")
    match = params.get("resourceVersionMatch", "")
    if token:
        if asked not in ("", "0"):
            raise bad_request("specifying resource version is not allowed when using continue")
        return _read_token(token)
    if match and not asked:
        raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided")
    version = number(asked or "0")
    if version > store.version:
        raise too_new(version, store.version)
    return (version if match == "Exact" else store.version), None
