"""Whose turn is it to tick: this process's, or that of another one, for which it stands by?

Without a lease there is nobody else; the audit log is claimed at once, or the process does not begin. With one, whoever
leads claims it before its first tick, and waits as long as its predecessor still writes its last record.

A leader that loses the lease ends its process, as Kubernetes' own controllers do, and stands by anew once it is started
again. It could step back instead, but then what a tick under way has sent, what it still owes to the record and what
the policy remembers would have to be taken from it in a running process; the end of the process does all that, and
resuming from the record is what every start does. No restart loop comes of it: who has not led ends for no lease,
however long the API server is away.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import structlog
from numpy.random import Generator

from controller.cluster_series import LeaseFigures
from controller.errors import AuditError
from controller.leadership import Candidate

_SOONEST = 0.8
"""Of ``retry_s``: candidates that began at the same moment do not go on asking at the same moment."""

_JUST_AFTER_S = 0.05
_COURTESY_S = 0.5


class Claim(Protocol):
    """The right to be the only one that writes the record."""

    def release(self) -> None:
        """Let another one take it."""
        ...


class Turn:
    """Keeps asking for the lease in a thread of its own; everything else may be asked from any.

    Attributes:
        waits_for: What the one that leads still waits for; empty where it waits for nothing.
    """

    def __init__(
        self,
        leadership: Candidate | None,
        claim: Callable[[], Claim],
        elapsed: Callable[[], float],
        rng: Generator | None = None,
    ) -> None:
        """``claim`` takes the claim to the audit log; ``rng`` scatters the tries for the lease.

        Raises:
            AuditError: If there is no lease and the log cannot be claimed.
        """
        self._leadership, self._take, self._elapsed, self._rng = leadership, claim, elapsed, rng
        self._claim = claim() if leadership is None else None
        self.waits_for = ""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._stepped_s = elapsed()
        self._told: tuple[bool, str] = False, ""
        self._since_s = elapsed()

    @property
    def standby(self) -> bool:
        """Whether this process has not begun to tick."""
        return self._claim is None

    @property
    def leads(self) -> bool:
        """Whether this process may act at this moment."""
        return not self.fence()

    @property
    def leader(self) -> str:
        """Who holds the lease as far as is known; empty when nobody does."""
        return self._leadership.holder if self._leadership is not None else ""

    @property
    def silent_s(self) -> float:
        """Seconds since the newest try for the lease ended, while there are to be any."""
        return self._elapsed() - self._stepped_s if self._thread is not None else 0.0

    @property
    def lost(self) -> str:
        """Why the process should end: it ticked, and leads no more; empty while it need not."""
        if self._thread is not None and not self._thread.is_alive() and not self._ended.is_set():
            return "the thread that renews the lease has ended"
        why_not = "" if self.standby else self.fence()
        return f"the lease is lost: {why_not}" if why_not else ""

    @property
    def pause_s(self) -> float:
        """How long to wait before the next try for the lease: never beyond the moment in which it is free."""
        if self._leadership is None:
            return float("inf")
        scatter = self._rng.uniform(_SOONEST, 1.0) if self._rng is not None else 1.0
        free_s, pause_s = self._leadership.free_in_s, self._leadership.settings.retry_s * scatter
        return min(pause_s, free_s + _JUST_AFTER_S) if free_s > 0 else pause_s

    @property
    def gap_s(self) -> float:
        """How long nobody acts when the lease goes from one to another without being resigned; 0 without a lease."""
        if self._leadership is None:
            return 0.0
        settings = self._leadership.settings
        return settings.duration_s - settings.renew_within_s

    def fence(self, needs_s: float = 0.0) -> str:
        """Return why nothing may be written now that takes ``needs_s``, empty when it may."""
        return self._leadership.why_not(needs_s) if self._leadership is not None else ""

    def why_not(self) -> str:
        """Return why no tick may begin, empty when one may; who leads claims the log first."""
        why_not = self.fence()
        if why_not or not self.standby:
            return why_not
        try:
            self._claim = self._take()
        except AuditError as error:
            self.waits_for = str(error)
            return self.waits_for
        self.waits_for = ""
        return self.fence()  # it may have taken a while

    def told(self) -> Mapping[str, Any] | None:
        """Return who leads and what the newest try for the lease ran into, as JSON; None without a lease."""
        ours = self._leadership
        if ours is None:
            return None
        return {
            "identity": ours.identity,
            "leads": self.leads,
            "leader": ours.holder,
            "trouble": ours.trouble,
            "waits_for": self.waits_for,
        }

    def figures(self) -> LeaseFigures | None:
        """Return how this process does with the lease; None without one. To be called from any thread."""
        ours = self._leadership
        if ours is None:
            return None
        now_s = self._elapsed()
        return LeaseFigures(now_s - self._stepped_s, now_s - self._since_s, ours.transitions, dict(ours.tries))

    def start(self) -> None:
        """Begin to ask for the lease, if there is one."""
        if self._leadership is not None:
            self._thread = threading.Thread(target=self._run, args=(self._leadership,), name="lease", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Let the next one begin at once. To be called when no tick is under way, nor will be.

        Where the lease is lost there is little to resign from, and the server that could be told may be why.
        """
        leads = self.leads
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        self._ended.set()
        if self._thread is not None and self._leadership is not None:
            self._thread.join(self._leadership.settings.renew_within_s if leads else _COURTESY_S)

    def _run(self, ours: Candidate) -> None:
        while True:
            ours.step()
            self._stepped_s = self._elapsed()
            self._log(ours)
            if self._ended.wait(self.pause_s):
                break
        ours.resign()  # here, so that no renewal that is under way can come after it

    def _log(self, ours: Candidate) -> None:
        log = structlog.get_logger("foresail.lease")
        if ours.trouble:
            log.warning("the lease was not taken or renewed", why=ours.trouble, repeat_key=ours.trouble)
        now = ours.leads, ours.holder
        if now[0] != self._told[0]:
            self._since_s = self._elapsed()
        if now != self._told:
            self._told = now
            log.info("leading" if now[0] else "standing by", identity=ours.identity, leader=ours.holder)
