"""Which trouble does a request meet before it reaches the store?

A fault is drawn before anything is read or written, so a refused request has changed nothing. Only ``answer_lost`` lets
the request be carried out and then cuts the connection: what a client sees of that is the same as of ``reset``, and it
has to find out.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from simulations.kubernetes_api.refusals import Refusal

_WORDS = {
    401: ("Unauthorized", "Unauthorized"),
    403: ("Forbidden", "forbidden"),
    409: ("Conflict", "the object has been modified; please apply your changes to the latest version and try again"),
    410: ("Expired", "The resourceVersion for the provided watch is too old."),
    429: ("TooManyRequests", "the server has received too many requests and has asked us to try again later"),
    500: ("InternalError", "Internal error occurred: etcdserver: request timed out"),
    503: ("ServiceUnavailable", "the server is currently unable to handle the request"),
    504: ("Timeout", "the server was unable to return a response in the time allotted"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of trouble and the requests that it strikes.

    Args:
        code: HTTP status to answer with; 0: none.
        latency_s: Seconds to wait first.
        hang: Never answer; the connection stays open until the partition heals or the server ends.
        reset: Cut the connection without an answer, the request not carried out.
        answer_lost: Carry the request out, then cut the connection.
        verbs: ``get``, ``list``, ``watch``, ``create``, ``update``, ``patch``, ``delete``; none given: all.
        resources: Plural names, with the subresource (``deployments/scale``); none given: all.
        fraction: Share of those requests that are struck.
        times: How many are struck at most; None: any number.
        retry_after_s: What ``Retry-After`` says.
    """

    code: int = 0
    latency_s: float = 0.0
    hang: bool = False
    reset: bool = False
    answer_lost: bool = False
    verbs: tuple[str, ...] = ()
    resources: tuple[str, ...] = ()
    fraction: float = 1.0
    times: int | None = None
    retry_after_s: int | None = None

    def concerns(self, verb: str, resource: str) -> bool:
        """Return whether such a request may be struck."""
        return (not self.verbs or verb in self.verbs) and (not self.resources or resource in self.resources)

    def refusal(self) -> Refusal:
        """Return the answer of a fault that has a code."""
        reason, message = _WORDS.get(self.code, ("", f"injected {self.code}"))
        details = {} if self.retry_after_s is None else {"retryAfterSeconds": self.retry_after_s}
        return Refusal(self.code, reason, message, details)


class Faults:
    """The faults in force; drawn in the order in which requests come, from one seeded generator."""

    def __init__(self, draws: np.random.Generator) -> None:
        self._lock = threading.Lock()
        self._draws = draws
        self._left: dict[Fault, int | None] = {}
        self.struck = 0

    def add(self, fault: Fault) -> None:
        """Put a fault in force."""
        with self._lock:
            self._left[fault] = fault.times

    def remove(self, fault: Fault) -> None:
        """End a fault; nothing happens where it is not in force."""
        with self._lock:
            self._left.pop(fault, None)

    def clear(self) -> None:
        """End every fault."""
        with self._lock:
            self._left.clear()

    def strike(self, verb: str, resource: str) -> list[Fault]:
        """Return the faults that this request meets."""
        with self._lock:
            met = []
            for fault, left in list(self._left.items()):
                if left == 0 or not fault.concerns(verb, resource):
                    continue
                if fault.fraction < 1.0 and self._draws.random() >= fault.fraction:
                    continue
                met.append(fault)
                if left is not None:
                    self._left[fault] = left - 1
            self.struck += len(met)
            return met
