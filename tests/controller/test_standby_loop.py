"""Does a loop whose turn it is not look, act, page, record and prune nothing, and is it ready when it is?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from controller.adapters.audit_claim import AuditClaim
from controller.daemon import run_once
from controller.errors import ForesailError
from controller.leadership import Leadership
from controller.live_loop import LiveLoop, Warrant
from controller.modes import Mode
from controller.turn import Turn
from policies.decisions import Page
from tests.builders import MODEL
from tests.builders_lease import SETTINGS, Machine, Store
from tests.controller.test_live_loop import Rig, counted


@dataclass
class Standby:
    """A rig that stands for a lease, and another one that may have it."""

    rig: Rig
    store: Store = field(default_factory=Store)
    machine: Machine = field(default_factory=Machine)

    def __post_init__(self) -> None:
        rig = self.rig
        self.ours, self.other = self.candidate("ours"), self.candidate("other")
        url = rig.settings.audit.url
        self.turn = Turn(self.ours, lambda: AuditClaim(rig.audit.engine, url), lambda: self.machine.at_s)
        parts = rig.settings, rig.ports, rig.audit, rig.telemetry, rig.world, rig
        rig.live = LiveLoop(*parts, warrant=Warrant(self.turn))
        rig.ticks = rig.live.ticker
        rig.telemetry.show_leader(lambda: self.turn.leads)

    def candidate(self, name: str) -> Leadership:
        return self.machine.candidate(self.store, name)

    def lose(self) -> None:
        """Sleep for so long that the other one has the lease."""
        self.other.step()
        self.machine.at_s += SETTINGS.duration_s + 0.1
        self.other.step()
        self.ours.step()

    def rest(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            assert self.rig.ticks.tick() is None
            self.rig.world.advance(15.0)


@pytest.fixture
def standby(tmp_path: Path) -> Iterator[Standby]:
    standby = Standby(Rig(tmp_path))
    yield standby
    standby.turn.end()
    standby.rig.audit.close()


def test_a_standby_keeps_young_and_does_nothing(standby: Standby) -> None:
    rig = standby.rig
    standby.other.step()
    standby.ours.step()
    rig.world.requests_per_s = 300.0
    standby.rest(8)
    assert (len(rig.audit), rig.world.acts, rig.notifier.pages) == (0, [], [])
    assert rig.ticks.waiting == "other leads"
    assert counted(rig, "foresail_ticks_total", outcome="standby") == 8
    assert counted(rig, "foresail_leader") == 0
    assert rig.telemetry.age_s == 15.0
    assert rig.ticks.bugs_in_a_row == 0


def test_a_standby_takes_the_settings_that_changed_and_ticks_with_them(standby: Standby) -> None:
    rig = standby.rig
    standby.other.step()
    standby.ours.step()
    chores, cadence = rig.chores()
    rig.write(modes="{scaling: recommend}")
    cadence.do("reload")
    standby.rest()
    assert (rig.live.settings.modes.scaling, chores.refused, rig.closed) == (Mode.RECOMMEND, "", 1)
    standby.other.resign()
    assert standby.ours.step()
    rig.run()
    assert (rig.generation(), counted(rig, "foresail_leader")) == (1, 1)


def test_of_the_chores_only_those_are_done_that_it_takes_to_begin(
    standby: Standby, capsys: pytest.CaptureFixture[str]
) -> None:
    rig = standby.rig
    rig.write("daemon: {retrain: {command: ['true'], every_s: 60}}\n")
    rig.live.replace(rig.settings)
    standby.rest(9)
    chores, cadence = rig.chores()
    for name in ("reload", "champion", "history", "retention", "skill", "retrain"):
        cadence.do(name)
    done = [
        name
        for name in cadence.works
        if any(counted(rig, "foresail_chores_total", chore=name, result=r) for r in ("done", "nothing", "failed"))
    ]
    assert done == ["reload", "champion"]
    chores.retrain_now()
    assert "another process leads" in capsys.readouterr().out
    standby.ours.step()
    rig.run()
    chores.retrain_now()
    cadence.do("retrain")
    assert counted(rig, "foresail_chores_total", chore="retrain", result="done") == 1


def test_what_is_decided_while_the_lease_is_lost_is_held_with_who_leads(standby: Standby) -> None:
    rig = standby.rig
    standby.ours.step()
    rig.run(2)
    rig.world.requests_per_s = 300.0
    pools = rig.world.pools

    def late() -> object:
        seen = pools()
        if rig.generation() == 5:
            standby.lose()  # after the look, before the acts
        return seen

    rig.world.pools = late  # type: ignore[method-assign,assignment]
    rig.run(4)
    newest = rig.ticks.newest
    assert newest is not None
    held = [(result.outcome, result.detail) for result in newest.results]
    assert set(held) == {("held", "other leads")}
    rows = len(rig.audit)
    standby.rest(3)
    assert len(rig.audit) == rows
    assert standby.turn.lost == "the lease is lost: other leads"


def test_nobody_is_paged_by_who_does_not_lead(standby: Standby) -> None:
    page = Page(MODEL, "forecasts", "look")
    standby.rig.live.page(page)
    assert standby.rig.notifier.pages == []
    standby.ours.step()
    standby.rig.live.page(page)
    assert standby.rig.notifier.pages == [page]


def test_one_tick_is_run_by_who_leads_and_the_lease_left_to_the_next_one(standby: Standby) -> None:
    rig = standby.rig
    standby.other.step()
    with pytest.raises(ForesailError, match="no tick: other leads"):
        run_once(rig.settings, rig.ports, rig.world, leadership=standby.candidate("once"))
    assert len(rig.audit) == 0
    standby.machine.at_s = SETTINGS.duration_s + 0.1
    standby.other.resign()
    assert run_once(rig.settings, rig.ports, rig.world, leadership=standby.candidate("again")) == "1"
    assert standby.store.lease is not None
    assert standby.store.lease.holder == ""
