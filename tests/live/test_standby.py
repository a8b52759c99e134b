"""Of two real daemons with one lease, does one act, and does the other one go on soon when that one does not?

The lease is in the project's API server, the record in PostgreSQL or in one file, as on a volume that both mount.
"""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from controller.adapters.kube.settings import KubernetesSettings, LeasePlace
from controller.adapters.sql_audit import SqlAudit
from simulations.kubernetes_api.running import RunningApi, running_api
from tests.live.daemon_world import WorldAddress, world_process
from tests.live.test_daemon import RunningDaemon, audit_of, settings_text, wait_for
from tests.live_times import Measured

LEASE = LeasePlace(duration_s=4.0, renew_within_s=2.5, retry_s=0.5)
"""A fifth of the defaults, and long enough for processes that share two cores with others."""

PATH = "/apis/coordination.k8s.io/v1/namespaces/default/leases/foresail"


@dataclass
class Pair:
    """Daemons that stand for one lease, over one record and one fleet."""

    folder: Path
    api: RunningApi
    world: WorldAddress
    record: str
    daemons: list[RunningDaemon] = field(default_factory=list)

    def start(self) -> RunningDaemon:
        known = KubernetesSettings(
            kubeconfig=self.api.write_kubeconfig(self.folder / "kubeconfig"), lease=LEASE, write_timeout_s=1.0
        )
        daemon = RunningDaemon(self.folder, self.world, f"log-{len(self.daemons)}", known)
        self.daemons.append(daemon)
        return daemon

    def both(self) -> tuple[RunningDaemon, RunningDaemon]:
        """Return one that leads and one that stands by."""
        leader = self.start()
        wait_for(lambda: ticks(leader) >= 3, "three ticks")
        standby = self.start()
        wait_for(lambda: standby.ask("/readyz").json().get("leader"), "standby")
        return leader, standby

    @property
    def lease(self) -> dict[str, Any]:
        spec: dict[str, Any] = self.api.call("GET", PATH)["spec"]
        return spec

    def checked(self) -> int:
        """Return how many decisions are on record: each made from the one before it, whoever made that."""
        log = SqlAudit.open_existing(self.record)
        rows = [row.record for row in log.entries() if row.record.get("decision")]
        assert log.verify().intact
        assert log.without_outcome(9) == []
        log.close()
        generations = [row["decision"]["generation"] for row in rows]
        assert generations == list(range(1, len(rows) + 1))
        for before, row in itertools.pairwise(rows):
            assert row["memory"]["generation"] == before["decision"]["generation"]
        return len(rows)


def ticks(daemon: RunningDaemon) -> float:
    """Return how many ticks saw the fleet and are on record."""
    return sum(daemon.metric("foresail_ticks_total", outcome=kind) for kind in ("quiet", "intended", "acted", "held"))


@contextmanager
def pair_of(folder: Path, rates: list[float], record: str = "") -> Iterator[Pair]:
    record = record or f"sqlite:///{folder}/audit.db"
    (folder / "foresail.yaml").write_text(settings_text(folder, record))
    with running_api() as api, world_process(rates) as world:
        pair = Pair(folder, api, world, record)
        try:
            yield pair
        finally:
            for daemon in pair.daemons:
                daemon.process.kill()
                daemon.process.join()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with pair_of(tmp_path, [5.0] * 3000) as pair:
        yield pair


@pytest.mark.parametrize("record", ["sqlite", "postgresql"])
def test_a_standby_looks_on_and_takes_over_when_the_leader_is_killed(
    record: str, tmp_path: Path, measured: Measured, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres").new_database() if record == "postgresql" else ""
    with pair_of(tmp_path, [5.0] * 3000, url) as pair:
        _looks_on_and_takes_over(pair, measured)


def _looks_on_and_takes_over(pair: Pair, measured: Measured) -> None:
    leader, standby = pair.both()
    name = pair.lease["holderIdentity"]
    assert leader.metric("foresail_leader") == 1
    for _ in range(8):
        time.sleep(0.25)
        ready = standby.ask("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ok": True, "standby": True, "leader": name})
    assert standby.ask("/healthz").status_code == 200
    assert standby.metric("foresail_leader") == ticks(standby) == 0
    assert standby.metric("foresail_ticks_total", outcome="standby") >= 4
    assert standby.metric("foresail_loop_age_seconds") < 2
    told = standby.ask("/status").json()["leadership"]
    assert (told["leads"], told["leader"], told["trouble"], told["waits_for"]) == (False, name, "", "")
    assert standby.metric("foresail_desired_replicas") == 0  # not published
    assert leader.metric("foresail_lease_tries_total", result="held") >= 2
    assert standby.metric("foresail_lease_tries_total", result="watched") >= 2
    assert standby.metric("foresail_lease_age_seconds") < LEASE.retry_s + 1.0
    stood_by_s = standby.metric("foresail_turn_seconds")
    assert stood_by_s >= 2.0
    pid = leader.process.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    began_s = time.monotonic()
    wait_for(lambda: ticks(standby) >= 1, "the first tick")
    took_s = time.monotonic() - began_s
    measured.note("takeover of a killed leader, s", took_s)
    assert took_s > LEASE.duration_s - LEASE.retry_s - 0.5  # not before the lease had run out
    assert took_s < 20.0
    assert standby.metric("foresail_leader") == standby.metric("foresail_lease_transitions") == 1
    assert standby.metric("foresail_turn_seconds") < stood_by_s + took_s
    assert standby.ask("/status").json()["leadership"]["leader"] == pair.lease["holderIdentity"] != name
    assert pair.lease["leaseTransitions"] == 1
    assert [line["event"] for line in standby.told("resumed")] == ["resumed"]
    wait_for(lambda: standby.metric("foresail_chores_total", chore="history") >= 1, "a look at the load before")
    wait_for(lambda: standby.ask("/readyz").json().get("missing_signals") == 0, "readiness of a leader")
    assert standby.stop() == 0
    assert pair.checked() >= 4


def test_a_leader_that_is_told_to_stop_is_followed_at_once(pair: Pair, measured: Measured) -> None:
    leader, standby = pair.both()
    began_s = time.monotonic()
    assert leader.stop() == 0
    wait_for(lambda: ticks(standby) >= 1, "the first tick")
    took_s = time.monotonic() - began_s
    measured.note("takeover of a leader that stops, s", took_s)
    assert took_s < LEASE.duration_s - LEASE.retry_s
    assert standby.stop() == 0
    assert "holderIdentity" not in pair.lease
    pair.checked()


def test_a_leader_without_an_api_server_ends_and_stands_by_anew(pair: Pair) -> None:
    """Nobody can take the lease meanwhile, and nobody acts; whoever comes first leads afterwards."""
    leader, standby = pair.both()
    pair.api.partition("reset")
    leader.process.join(20)
    assert leader.process.exitcode == 1
    assert "the lease is lost" in leader.told("ending, to be started anew")[0]["why"]
    assert "does not answer" in leader.told("the lease was not taken or renewed")[0]["why"]
    rows, ended_s = pair.checked(), time.monotonic()
    again = pair.start()
    wait_for(lambda: again.ask("/readyz").status_code == 200, "standby")
    assert again.ask("/readyz").json()["leader"] == ""
    assert "does not answer" in again.ask("/status").json()["leadership"]["trouble"]
    time.sleep(max(0.0, ended_s + LEASE.duration_s - time.monotonic()))
    assert pair.checked() == rows
    assert (again.process.exitcode, standby.process.exitcode) == (None, None)  # no restart loop
    pair.api.heal()
    wait_for(lambda: ticks(again) + ticks(standby) >= 3, "ticks")
    assert {ticks(again) > 0, ticks(standby) > 0} == {True, False}
    pair.checked()


def test_a_leader_that_sleeps_wakes_up_to_find_another_one_and_writes_nothing(tmp_path: Path) -> None:
    """It holds the claim to the record until it has written down what became of its last act: the other one waits."""
    with pair_of(tmp_path, [60.0] * 3000) as pair:
        there = pair.world.connect()
        there.hold("after")
        leader = pair.start()
        wait_for(there.held, "write under way")
        standby = pair.start()
        wait_for(lambda: standby.ask("/readyz").json().get("leader"), "standby")
        pid = leader.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        wait_for(lambda: standby.metric("foresail_leader") == 1, "the lease")
        wait_for(lambda: standby.ask("/status").json()["leadership"]["waits_for"], "a claim that is not let go")
        assert "another controller" in standby.ask("/readyz").json()["why"]
        there.hold("")
        writes = there.seen()[0]
        assert (len(writes), ticks(standby)) == (1, 0)
        os.kill(pid, signal.SIGCONT)
        leader.process.join(20)
        assert leader.process.exitcode == 1
        wait_for(lambda: ticks(standby) >= 1, "the first tick")
        assert standby.told("an act had no outcome on record") == []
        assert standby.stop() == 0
        pair.checked()
        log = audit_of(tmp_path)
        (done,) = [r for row in log.recent(99, ("acted",)) for r in row.record["results"] if r["outcome"] == "done"][
            -1:
        ]
        assert (done["act"], writes[0].done) == ("scale", True)
        log.close()
