"""How do ScalingPolicy objects take effect: laid over the settings file at a reload, as if they stood in it?

A reload wants to know two things: whether there are others now, and what then holds. Both are answered from what the
watch has told, without asking anybody. Edits that follow one another shortly are taken together. Until policies have
been read once nothing but looking is done, since one of them may ask for just that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, TypeAlias

import structlog
from numpy.random import Generator

from controller.adapters.kube.changes import Fence, unfenced
from controller.adapters.kube.policy_objects import Policy
from controller.adapters.kube.policy_settings import Overlaid, overlay
from controller.adapters.kube.settings import KubernetesSettings
from controller.errors import BadSetting, ObservationError
from controller.modes import ModeSettings
from controller.ports import TickRecord
from controller.settings import Settings

if TYPE_CHECKING:
    from controller.adapters.kube.policy_watch import PolicyWatch
    from controller.adapters.kube.policy_writer import Pace, StatusWriter

QUIET_S = 2.0
LONGEST_S = 20.0
"""After so long edits are taken over, although they go on."""

_Versions: TypeAlias = frozenset[tuple[str, int]]

_log = structlog.get_logger("foresail.policies")


@dataclass(slots=True)
class _Edits:
    """What differs from what is in use: which versions there are, and when that began and was last otherwise."""

    versions: _Versions
    began_s: float
    changed_s: float


class ScalingPolicies:
    """The policies of the cluster that settings name, if these want any. Close it after use.

    Safe to use from several threads. Every write asks ``fence``, which may be set later on.
    """

    def __init__(
        self,
        elapsed: Callable[[], float],
        rng: Generator,
        fence: Fence = unfenced,
        pace: Pace | None = None,
    ) -> None:
        """Take the time from ``elapsed``, seconds that never go back; ``rng`` scatters waits."""
        self.fence = fence
        self._elapsed, self._rng, self._pace = elapsed, rng, pace
        self._lock = Lock()
        self._watch: PolicyWatch | None = None
        self._writer: StatusWriter | None = None
        self._watched: KubernetesSettings | None = None
        self._applied: _Versions | None = None
        self._edits: _Edits | None = None
        self._laid: Overlaid | None = None
        self._good: Mapping[str, Policy] = {}

    @property
    def laid(self) -> Overlaid | None:
        """What was laid over the settings last; None where no policies are read, or have not been yet."""
        return self._laid

    def lay_over(self, settings: Settings) -> Settings:
        """Return ``settings``, as the file has them, with the policies of their platform laid over them.

        Raises:
            BadSetting: If it cannot be told how the API server is reached.
        """
        platform: object = settings.platform
        wanted = platform if isinstance(platform, KubernetesSettings) and platform.policies else None
        with self._lock:
            self._follow(wanted)
            if self._watch is None:
                self._laid = None
                return settings
            try:
                policies = self._watch.policies()
            except ObservationError as error:
                self._applied, self._laid = None, None
                _log.error("policies not read yet: nothing is done until they are", why=str(error))
                modes = ModeSettings(maintenance=settings.modes.maintenance)
                return settings.model_copy(update={"modes": modes})
            if why := self._watch.why_none():
                _log.warning("there are no policies", why=why, repeat_key=why)
            # Two shards may remember other versions of one policy, and what holds must be the same for both.
            good = self._good if settings.daemon.shard.whole else {}
            self._laid = laid = overlay(settings, policies, good)
            self._good, self._applied, self._edits = laid.good, _versions(policies), None
        for verdict in laid.verdicts:
            if not verdict.accepted:
                told = {"policy": str(verdict.policy), "reason": verdict.reason, "why": verdict.message}
                _log.warning("a policy is not followed", **told, repeat_key=f"{told}")
        return laid.settings

    def changed(self) -> bool:
        """Whether there are other policies than those laid over last, and nobody is changing them just now."""
        with self._lock:
            if self._watch is None:
                return False
            try:
                versions = _versions(self._watch.policies())
            except ObservationError:
                return False
            if self._applied is None:
                return True
            if versions == self._applied:
                self._edits = None
                return False
            now_s = self._elapsed()
            if self._edits is None:
                self._edits = _Edits(versions, now_s, now_s)
            elif versions != self._edits.versions:
                self._edits.versions, self._edits.changed_s = versions, now_s
            return now_s - self._edits.changed_s >= QUIET_S or now_s - self._edits.began_s >= LONGEST_S

    def saw(self, record: TickRecord) -> None:
        """Let the policies show what became of a tick; returns at once."""
        writer, laid = self._writer, self._laid
        if writer is not None and laid is not None:
            writer.tell(record, laid)

    def close(self) -> None:
        """End the watch, and show nothing more."""
        with self._lock:
            self._follow(None)

    def _why_not(self, within_s: float) -> str:
        return self.fence(within_s)

    def _follow(self, wanted: KubernetesSettings | None) -> None:
        """Watch the cluster that is wanted, and no other."""
        if wanted == self._watched:
            return
        opened = None if wanted is None else self._open(wanted)
        if self._writer is not None:
            self._writer.close()
        if self._watch is not None:
            self._watch.close()
        self._watch, self._writer = opened or (None, None)
        self._watched, self._applied, self._edits = wanted, None, None
        if opened is not None:
            watch, writer = opened
            watch.start()
            writer.start()

    def _open(self, wanted: KubernetesSettings) -> tuple[PolicyWatch, StatusWriter]:
        """Return what watches a cluster and writes there; raises BadSetting where it cannot be told how to reach it."""
        # With the client of the API server, which not everybody needs.
        from controller.adapters.kube.policy_watch import PolicyWatch
        from controller.adapters.kube.policy_writer import Pace, StatusWriter

        try:
            watch = PolicyWatch(wanted, self._elapsed, self._rng, self._why_not)
        except ObservationError as error:
            raise BadSetting(error.what, error.where, error.remedy) from None
        return watch, StatusWriter(watch, self._elapsed, self._pace or Pace())


def _versions(policies: Iterable[Policy]) -> _Versions:
    return frozenset([(policy.uid, policy.generation) for policy in policies])
