"""Does the process that leads tick, and no other, and does it end once it does not lead any more?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event

import numpy as np
import pytest

from controller.adapters.audit_claim import AuditClaim
from controller.adapters.sql_audit import SqlAudit
from controller.adapters.system_clock import SystemClock
from controller.errors import AuditError
from controller.leadership import LeaseSettings
from controller.turn import Turn
from tests.builders_lease import SETTINGS, Machine, Store

QUICK = LeaseSettings(duration_s=1.0, renew_within_s=0.5, retry_s=0.02)
MOST_S = 10.0


@dataclass
class Log:
    """An audit log, as several processes would claim it."""

    url: str

    @contextmanager
    def opened(self) -> Iterator[Callable[[], AuditClaim]]:
        log = SqlAudit.open(self.url)
        try:
            yield lambda: AuditClaim(log.engine, self.url)
        finally:
            log.close()


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(f"sqlite:///{tmp_path}/audit.db")


def wait_for(what: Callable[[], object]) -> None:
    clock, nothing = SystemClock(), Event()
    end_s = clock.elapsed() + MOST_S
    while not what():
        assert clock.elapsed() < end_s
        nothing.wait(0.01)


def test_without_a_lease_the_log_is_claimed_at_once_or_nothing_begins(log: Log) -> None:
    with log.opened() as one, log.opened() as two:
        turn = Turn(None, one, lambda: 0.0)
        assert (turn.why_not(), turn.standby, turn.leads, turn.lost, turn.told()) == ("", False, True, "", None)
        turn.start()
        assert turn.silent_s == 0.0
        with pytest.raises(AuditError, match="another controller"):
            Turn(None, two, lambda: 0.0)
        turn.end()
        Turn(None, two, lambda: 0.0).end()


def test_who_leads_ticks_once_its_predecessor_has_let_the_log_go(log: Log) -> None:
    store, machine = Store(), Machine()
    with log.opened() as one, log.opened() as two:
        first, second = machine.candidate(store, "one"), machine.candidate(store, "two")
        before, after = Turn(first, one, lambda: machine.at_s), Turn(second, two, lambda: machine.at_s)
        assert before.why_not() == "nobody leads yet"
        first.step()
        second.step()
        assert (before.why_not(), before.standby) == ("", False)
        assert (after.why_not(), after.standby, after.leader) == ("one leads", True, "one")
        machine.at_s = SETTINGS.duration_s + 0.1
        assert second.step()
        assert "another controller" in after.why_not()  # the one before is not gone yet
        assert (after.standby, after.leads) == (True, True)
        assert "another controller" in str((after.told() or {})["waits_for"])
        before.end()
        assert (after.why_not(), after.standby, after.waits_for) == ("", False, "")
        after.end()


def test_the_lease_is_lost_by_who_ticked_and_by_nobody_else(log: Log) -> None:
    store, machine = Store(), Machine()
    with log.opened() as one, log.opened() as two:
        first, second = machine.candidate(store, "one"), machine.candidate(store, "two")
        leader, standby = Turn(first, one, lambda: machine.at_s), Turn(second, two, lambda: machine.at_s)
        first.step()
        second.step()
        leader.why_not()
        store.down = True
        machine.at_s = SETTINGS.renew_within_s
        assert leader.lost == "the lease is lost: the lease was not renewed in time"
        assert leader.why_not() == leader.fence() == "the lease was not renewed in time"
        assert leader.gap_s == SETTINGS.duration_s - SETTINGS.renew_within_s
        assert standby.lost == ""
        leader.end()


def test_it_asks_for_the_lease_until_its_end_and_leaves_it_to_the_next_one(log: Log) -> None:
    store, clock = Store(), SystemClock()
    with log.opened() as one:
        machine = Machine()
        ours = machine.candidate(store, "one", QUICK)
        turn = Turn(ours, one, clock.elapsed)
        turn.start()
        wait_for(lambda: store.written >= 3)
        assert (turn.leads, turn.why_not(), turn.lost) == (True, "", "")
        turn.end()
    assert store.lease is not None
    assert store.lease.holder == ""
    written = store.written
    assert machine.candidate(store, "two", QUICK).step()  # at once
    assert store.written == written + 1


def test_a_standby_asks_again_in_the_moment_in_which_the_lease_is_free(log: Log) -> None:
    store, machine = Store(), Machine()
    with log.opened() as claim:
        first, second = machine.candidate(store, "one"), machine.candidate(store, "two")
        turn = Turn(second, claim, lambda: machine.at_s)
        first.step()
        second.step()
        assert turn.pause_s == SETTINGS.retry_s
        machine.at_s = SETTINGS.duration_s - 0.5
        assert turn.pause_s == pytest.approx(0.55)
        machine.at_s += turn.pause_s
        store.down = True
        assert not second.step()
        assert turn.pause_s == SETTINGS.retry_s  # free, and not to be had
        store.down = False
        assert second.step()
        assert turn.pause_s == SETTINGS.retry_s
        scattered = Turn(second, claim, lambda: machine.at_s, np.random.default_rng(0))
        pauses = {scattered.pause_s for _ in range(100)}
        assert len(pauses) == 100
        assert 0.8 * SETTINGS.retry_s <= min(pauses) < max(pauses) <= SETTINGS.retry_s


def test_a_thread_that_ended_is_told(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    store, clock = Store(), SystemClock()
    with log.opened() as one:
        ours = Machine().candidate(store, "one", QUICK)
        turn = Turn(ours, one, clock.elapsed)
        monkeypatch.setattr("threading.excepthook", lambda _: None)
        monkeypatch.setattr(store, "read", lambda: 1 / 0)
        turn.start()
        wait_for(lambda: turn.lost)
        assert turn.lost == "the thread that renews the lease has ended"
        turn.end()
