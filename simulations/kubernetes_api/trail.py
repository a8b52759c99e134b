"""Who has written what over HTTP? What an API server's audit log says, for those who check what a client did.

Each write that was carried out has the object's generation and resourceVersion right before and after it: what it was
conditional on can be told from what it met.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from simulations.kubernetes_api.requests import Aim, Answer
from simulations.kubernetes_api.store import Store, Stored

MOST_KEPT = 100_000
_WRITES = frozenset({"create", "update", "patch", "delete", "deletecollection"})


@dataclass(frozen=True, slots=True)
class Written:
    """One write that was carried out.

    Attributes:
        at: By the server's clock, in Unix seconds.
        user: Whom the token stands for.
        resource: Plural name, with the subresource.
        before, after: The object around the write; None where there was, or is, none.
        body: What was sent.
    """

    at: float
    user: str
    verb: str
    resource: str
    namespace: str
    name: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    body: bytes

    @property
    def changed(self) -> bool:
        """Whether the object is another one than before."""
        return self.before != self.after

    @property
    def generation_before(self) -> int:
        """The generation that the write met; 0 where there was no object."""
        return int(self.before["metadata"].get("generation", 0)) if self.before else 0


class Trail:
    """What was written, the oldest first; of more than ``MOST_KEPT`` writes the first ones are kept."""

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self.written: list[Written] = []
        self._store, self._now = store, now

    def follow(self, aim: Aim, user: str, body: bytes, carry_out: Callable[[], Answer]) -> Answer:
        """Carry a request out, and note it if it is a write that succeeded; nobody else writes meanwhile."""
        if aim.verb not in _WRITES or aim.dry_run or aim.kind.plural == "events":
            return carry_out()
        with self._store.changed:
            before = self._store.get(aim.kind, aim.key)
            answer = carry_out()
            if answer.code < 300 and len(self.written) < MOST_KEPT:
                name = aim.name or str(json.loads(answer.text)["metadata"]["name"])
                after = self._store.get(aim.kind, (aim.key[0], name))
                entry = Written(
                    self._now(), user, aim.verb, aim.resource, aim.namespace, name, _value(before), _value(after), body
                )
                self.written.append(entry)
            return answer


def _value(stored: Stored | None) -> Mapping[str, Any] | None:
    return stored.value if stored else None
