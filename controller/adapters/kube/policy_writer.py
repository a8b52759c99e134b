"""How is what a tick decided shown by each ScalingPolicy, without a tick ever waiting for that?

A thread writes; it is given the newest tick and forgets the one before. A status is written where it differs from what
the API server has, each policy and all together no faster than the pace. What came to be known last is written last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import structlog

from controller.adapters.kube.changes import MERGE_PATCH, Change, acting
from controller.adapters.kube.json_reading import text, under
from controller.adapters.kube.policy_objects import Policy
from controller.adapters.kube.policy_settings import Overlaid, Verdict
from controller.adapters.kube.policy_status import Seen, Status, is_figures, patch_of, status_of
from controller.adapters.kube.policy_watch import SCALING_POLICIES, PolicyWatch
from controller.adapters.kube.questions import Question
from controller.errors import ActuationError, ObservationError, StalePlan
from controller.ports import TickRecord
from controller.shard_settings import ShardSettings

MOST_FAILURES = 3
"""In a row, after which the rest waits for the next tick."""

_JOIN_S = 2.0

_log = structlog.get_logger("foresail.policies")


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast statuses are written, at most.

    A thousand policies that all change at once are through in 100 s, with 10 writes a second.

    Attributes:
        changes_every_s: Seconds between two writes of one policy.
        figures_every_s: The same where nothing but figures of the forecast and of the reason have moved.
        between_s: Seconds between two writes of any.
    """

    changes_every_s: float = 10.0
    figures_every_s: float = 60.0
    between_s: float = 0.1


@dataclass(frozen=True, slots=True)
class _Written:
    """What was written of a policy: over which version that the watch tells, what came of it, and when."""

    over: str
    resource_version: str
    status: Any
    at_s: float


@dataclass(frozen=True, slots=True)
class _Due:
    """A status that may be written now."""

    policy: Policy
    patch: Status
    resource_version: str
    order: tuple[bool, float]


class StatusWriter:
    """Writes statuses of the policies of one watch. Start it before use and close it after."""

    def __init__(self, watch: PolicyWatch, elapsed: Callable[[], float], pace: Pace) -> None:
        """Take the time from ``elapsed``, seconds that never go back."""
        self._watch, self._api, self._elapsed, self._pace = watch, watch.api, elapsed, pace
        self._newest: tuple[TickRecord, Overlaid] | None = None
        self._written: dict[str, _Written] = {}
        self._awake, self._stopped = Event(), Event()
        self._thread = Thread(target=self._run, name="policy statuses", daemon=True)

    def start(self) -> None:
        """Begin to write what is told."""
        self._thread.start()

    def close(self) -> None:
        """End after the write under way."""
        self._stopped.set()
        self._awake.set()
        self._thread.join(_JOIN_S)

    def tell(self, record: TickRecord, laid: Overlaid) -> None:
        """Let this tick be shown, with the policies that were in force; returns at once."""
        self._newest = record, laid
        self._awake.set()

    def _run(self) -> None:
        while True:
            self._awake.wait()
            self._awake.clear()
            if self._stopped.is_set():
                return
            try:
                self._round()
            except Exception:  # noqa: BLE001 - a bug here must not end what shows everything else
                _log.exception("statuses of policies were not written", repeat_key="statuses")

    def _round(self) -> None:
        newest = self._newest
        if newest is None:
            return
        failures = 0
        for due in sorted(self._due(*newest), key=lambda each: each.order):
            if self._stopped.is_set() or self._newest is not newest or failures >= MOST_FAILURES:
                return
            failures = 0 if self._write(due) else failures + 1
            self._stopped.wait(self._pace.between_s)

    def _due(self, record: TickRecord, laid: Overlaid) -> Iterator[_Due]:
        """Yield what may be written of a tick."""
        try:
            there = {policy.uid: policy for policy in self._watch.policies()}
        except ObservationError:
            return
        self._written = {uid: written for uid, written in self._written.items() if uid in there}
        seen, now_s = Seen(record), self._elapsed()
        for verdict in laid.verdicts:
            policy = there.get(verdict.policy.uid)
            if policy is None or not _is_ours(verdict, laid.settings.daemon.shard):
                continue
            version, before, written = policy.resource_version, policy.status, self._written.get(policy.uid)
            if written is not None and written.over == version:  # the watch does not show it yet
                version, before = written.resource_version, written.status
            patch = patch_of(status_of(verdict, seen, laid.settings, before), before)
            if patch is None:
                continue
            figures, last_s = is_figures(patch, before), written.at_s if written else -float("inf")
            if now_s - last_s >= (self._pace.figures_every_s if figures else self._pace.changes_every_s):
                yield _Due(policy, patch, version, (figures, last_s))

    def _write(self, due: _Due) -> bool:
        """Return whether the API server could be spoken to; a policy that has changed meanwhile is left for later."""
        policy = due.policy
        question = Question("patch", SCALING_POLICIES, policy.namespace, policy.name, "status")
        body = {"metadata": {"resourceVersion": due.resource_version}, "status": due.patch}
        version, status, reached = due.resource_version, policy.status, True
        try:
            with acting():
                told = self._api.change(Change(question, body, MERGE_PATCH))
            version, status = text(told, "metadata", "resourceVersion"), under(told, "status")
        except StalePlan:
            version, status = policy.resource_version, policy.status
        except ActuationError as error:
            reached = False
            _log.warning("the status of a policy is not written", why=str(error), repeat_key=error.what)
        self._written[policy.uid] = _Written(policy.resource_version, version, status, self._elapsed())
        return reached


def _is_ours(verdict: Verdict, shard: ShardSettings) -> bool:
    """Return whether this shard is the one to show it: that of its model, whatever is wrong with it."""
    return shard.has(verdict.model or text(verdict.policy.spec, "model"))
