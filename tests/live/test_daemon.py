"""Would an operator leave it alone: a real daemon, a process of its own, started, asked, reloaded, stopped, killed?"""

from __future__ import annotations

import itertools
import json
import logging
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.sql_audit import SqlAudit
from policies.decisions import Decision
from policies.wire_reader import read_back
from simulations.faults import Hang, ReplicaTarget
from tests.live.daemon_world import MODEL, WorldAddress, daemon_process, world_process

WAIT_S = 60.0
WAVES = [2.0, 12.0, 30.0, 30.0, 12.0, 2.0] * 400
"""Requests/s per minute of the fleet's clock: a second of the wall."""


def settings_text(folder: Path, url: str = "", **changes: str) -> str:
    said = {
        "modes": "{scaling: auto, traffic: auto, healing: auto}",
        "stabilization": "{}",
        "daemon": "",
        **changes,
    }
    return f"""
policy:
  pools:
    {MODEL}/l40s/unified: {{profile: llama-3.1-8b-l40s-tp1, min_replicas: 1, max_replicas: 12}}
  stabilization: {said["stabilization"]}
modes: {said["modes"]}
audit: {{url: "{url or f"sqlite:///{folder}/audit.db"}"}}
daemon:
  status: {{address: "127.0.0.1:0"}}
  kill_switch: {folder}/STOP
  reload_check_s: 0.2
  log_repeat_s: 0
{said["daemon"]}
"""


class RunningDaemon:
    """A daemon in a process of its own, as seen from outside."""

    def __init__(
        self, folder: Path, world: WorldAddress, name: str = "log", lease: KubernetesSettings | None = None
    ) -> None:
        self.log_file = folder / name
        self._before = len(self.log())
        self.process = daemon_process(folder / "foresail.yaml", world, self.log_file, lease)

    def log(self) -> list[dict[str, Any]]:
        if not self.log_file.exists():
            return []
        # A line that is still being written is not one yet.
        lines = self.log_file.read_text().rpartition("\n")[0].splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def told(self, event: str) -> list[dict[str, Any]]:
        """Return the lines of this process that begin with ``event``."""
        return [line for line in self.log()[self._before :] if line["event"].startswith(event)]

    @property
    def url(self) -> str:
        wait_for(lambda: self.told("started"), "start")
        return str(self.told("started")[0]["status"])

    def ask(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=10, trust_env=False)

    def metric(self, name: str, **labels: str) -> float:
        """Return the sum of a metric's samples with ``labels``."""
        total = 0.0
        for line in self.ask("/metrics").text.splitlines():
            found = re.fullmatch(rf"{name}(?:{{(.*)}})? (\S+)", line)
            if found and all(f'{key}="{value}"' in (found[1] or "") for key, value in labels.items()):
                total += float(found[2])
        return total

    def stop(self, number: int = signal.SIGTERM) -> int | None:
        pid = self.process.pid
        assert pid is not None
        os.kill(pid, number)
        self.process.join(WAIT_S)
        return self.process.exitcode


def wait_for(what: Callable[[], object], named: str) -> None:
    end = time.monotonic() + WAIT_S
    while not what():
        assert time.monotonic() < end, f"no {named} within {WAIT_S:.0f} s"
        time.sleep(0.02)


@contextmanager
def running(folder: Path, world: WorldAddress, text: str | None = None) -> Iterator[RunningDaemon]:
    if text is not None:
        (folder / "foresail.yaml").write_text(text)
    daemon = RunningDaemon(folder, world)
    try:
        yield daemon
    finally:
        daemon.process.kill()
        daemon.process.join()


def audit_of(folder: Path) -> SqlAudit:
    return SqlAudit.open_existing(folder / "audit.db")


@pytest.fixture(scope="module")
def calm_world() -> Iterator[WorldAddress]:
    with world_process([5.0] * 3000) as world:
        yield world


def test_it_starts_answers_and_stops_cleanly_when_told_to(tmp_path: Path, calm_world: WorldAddress) -> None:
    with running(tmp_path, calm_world, settings_text(tmp_path)) as daemon:
        wait_for(lambda: daemon.ask("/readyz").status_code == 200, "readiness")
        alive = daemon.ask("/healthz")
        assert (alive.status_code, alive.json()["settings"]) == (200, {"current": True})
        wait_for(lambda: daemon.metric("foresail_ticks_total") >= 5, "five ticks")
        assert daemon.metric("foresail_tick_seconds_count", phase="whole") >= 5
        for phase in ("observe", "forecast", "decide", "act", "record"):
            assert daemon.metric("foresail_tick_seconds_sum", phase=phase) > 0
        assert daemon.metric("foresail_desired_replicas", pool="l40s") >= 1
        assert daemon.metric("wva_desired_replicas", variant_name="l40s", accelerator_type="L40S") >= 1
        assert daemon.metric("foresail_loop_age_seconds") < 5
        assert daemon.ask("/nothing").status_code == 404
        assert daemon.stop() == 0
    assert [line["code"] for line in daemon.told("stopped")] == [0]
    log = audit_of(tmp_path)
    assert log.verify().intact
    assert len(log) >= 5
    log.close()


def test_a_valid_change_of_the_settings_is_used_and_an_invalid_one_refused(
    tmp_path: Path, calm_world: WorldAddress
) -> None:
    file = tmp_path / "foresail.yaml"
    with running(tmp_path, calm_world, settings_text(tmp_path)) as daemon:
        wait_for(lambda: daemon.ask("/readyz").status_code == 200, "readiness")
        file.write_text(settings_text(tmp_path, modes="{scaling: observe}"))
        wait_for(lambda: daemon.told("settings applied"), "reload")
        assert daemon.told("settings applied")[0]["modes"]["scaling"] == "observe"
        file.write_text(settings_text(tmp_path, modes="{scaling: often}"))
        wait_for(lambda: daemon.told("settings refused"), "refusal")
        why = daemon.ask("/healthz").json()["settings"]
        assert not why["current"]
        assert "modes.scaling" in why["refused"]
        assert daemon.metric("foresail_config_current") == 0
        assert daemon.metric("foresail_config_reloads_total", result="refused") == 1
        file.write_text(settings_text(tmp_path, url=f"sqlite:///{tmp_path}/other.db"))
        wait_for(lambda: len(daemon.told("settings refused")) == 2, "second refusal")
        assert "audit.url cannot change" in daemon.ask("/healthz").json()["settings"]["refused"]
        ticks = daemon.metric("foresail_ticks_total")
        wait_for(lambda: daemon.metric("foresail_ticks_total") > ticks + 2, "ticks after the refusal")
        file.write_text(settings_text(tmp_path))
        wait_for(lambda: daemon.metric("foresail_config_current") == 1, "the file put right")
        pid = daemon.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGHUP)
        wait_for(lambda: len(daemon.told("settings applied")) == 3, "reload by signal")
        assert daemon.stop(signal.SIGINT) == 0
    log = audit_of(tmp_path)
    generations = [e.record["decision"]["generation"] for e in log.entries() if e.record.get("decision")]
    assert generations == list(range(1, len(generations) + 1))  # the memory went on through every reload
    log.close()


def test_a_platform_that_is_down_changes_nothing_and_is_survived(tmp_path: Path) -> None:
    with world_process([5.0] * 3000) as world, running(tmp_path, world, settings_text(tmp_path)) as daemon:
        there = world.connect()
        wait_for(lambda: daemon.ask("/readyz").status_code == 200, "readiness")
        there.take_down(True)
        wait_for(lambda: daemon.ask("/readyz").status_code == 503, "unreadiness")
        assert "platform is down" in daemon.ask("/readyz").json()["why"]
        assert daemon.ask("/healthz").status_code == 200
        assert daemon.metric("foresail_ticks_total", outcome="blind") >= 1
        assert daemon.metric("foresail_desired_replicas", pool="l40s") >= 1  # what was decided last still holds
        writes = len(there.seen()[0])
        wait_for(lambda: daemon.metric("foresail_ticks_total", outcome="blind") >= 5, "blind ticks")
        assert len(there.seen()[0]) == writes
        there.take_down(False)
        wait_for(lambda: daemon.ask("/readyz").status_code == 200, "readiness again")


def test_the_kill_switch_holds_every_write(tmp_path: Path) -> None:
    (tmp_path / "STOP").touch()
    with world_process(WAVES) as world, running(tmp_path, world, settings_text(tmp_path)) as daemon:
        wait_for(lambda: daemon.metric("foresail_acts_total", outcome="held") >= 2, "held acts")
        assert world.connect().seen()[0] == []


def test_a_second_daemon_on_the_same_record_is_refused(tmp_path: Path, calm_world: WorldAddress) -> None:
    with running(tmp_path, calm_world, settings_text(tmp_path)) as daemon:
        wait_for(lambda: daemon.told("started"), "start")
        second = daemon_process(tmp_path / "foresail.yaml", calm_world, tmp_path / "second")
        second.join(WAIT_S)
        assert second.exitcode == 1
        assert "another controller is writing this audit log" in (tmp_path / "second").read_text()


@pytest.mark.parametrize(("where", "record"), [("before", "sqlite"), ("after", "sqlite"), ("after", "postgresql")])
def test_a_write_that_a_kill_cuts_off_is_neither_lost_nor_repeated(
    where: str, record: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The write takes effect before the kill, or so late that the next daemon has begun to look for it."""
    url = f"sqlite:///{tmp_path}/audit.db"
    if record == "postgresql":
        url = request.getfixturevalue("postgres").new_database()
    text = settings_text(tmp_path, url=url, daemon="  resume_grace_s: 120")
    with world_process([60.0] * 3000) as world:
        there = world.connect()
        there.hold(where)
        with running(tmp_path, world, text) as daemon:
            wait_for(there.held, "write under way")
            daemon.stop(signal.SIGKILL)
        looks = there.looks()
        with running(tmp_path, world, text) as daemon:
            wait_for(lambda: there.looks() > looks, "look at the platform")
            there.hold("")
            wait_for(lambda: daemon.told("an act had no outcome on record"), "finding out")
            (found,) = daemon.told("an act had no outcome on record")
            assert (found["act"], found["outcome"]) == ("scale", "done")
            wait_for(lambda: daemon.metric("foresail_ticks_total") >= 2, "two ticks")
            daemon.stop()
        writes = there.seen()[0]
    log = SqlAudit.open_existing(url)
    assert log.without_outcome(9) == []
    assert log.verify().intact
    log.close()
    first = [w for w in writes if w.before == writes[0].before]
    assert [w.done for w in first] == [True]  # nobody else tried it at that version


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_restart_that_a_kill_cuts_off_ends_no_replica_twice(where: str, tmp_path: Path) -> None:
    text = settings_text(tmp_path, daemon="  resume_grace_s: 120").replace("scaling: auto", "scaling: observe")
    with world_process([8.0] * 3000) as world:
        there = world.connect()
        with running(tmp_path, world, text) as daemon:
            wait_for(lambda: daemon.metric("foresail_ticks_total") >= 4, "ticks")
            there.inject(Hang(there.seen()[2], ReplicaTarget("l40s", 0)))
            wait_for(lambda: daemon.metric("foresail_acts_total", act="cordon", outcome="done") >= 1, "cordon")
            there.hold(where)
            wait_for(there.held, "restart under way")
            daemon.stop(signal.SIGKILL)
        looks = there.looks()
        with running(tmp_path, world, text) as daemon:
            wait_for(lambda: there.looks() > looks, "look at the platform")
            there.hold("")
            wait_for(lambda: daemon.told("an act had no outcome on record"), "finding out")
            found = {line["act"]: line["outcome"] for line in daemon.told("an act had no outcome on record")}
            assert found["restart"] == "done"
            wait_for(lambda: daemon.metric("foresail_ticks_total") >= 10, "ticks beyond the deadline of a restart")
        restarts = [w for w in there.seen()[0] if w.act == "restart"]
    assert len(restarts) == 1


def test_killed_at_any_instant_it_resumes_without_repeating_or_losing_an_action(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """A restless fleet, a platform that is slow to do and slow to answer, and kills at random instants of that."""
    rng = np.random.default_rng(20261127)
    restless = "{down_window_s: 15, unforecast_down_window_s: 15}"
    text = settings_text(tmp_path, stabilization=restless, daemon="  resume_grace_s: 24")
    (tmp_path / "foresail.yaml").write_text(text)
    with world_process(WAVES, slow_s=0.2) as world:
        there = world.connect()
        for kill in range(12):
            with running(tmp_path, world) as daemon:
                wait_for(lambda d=daemon: d.told("resumed") or d.told("began"), "begin")
                if kill % 4 == 0:
                    at_s = there.seen()[2]
                    there.inject(Hang(at_s, ReplicaTarget("l40s", int(rng.integers(4)))))
                time.sleep(rng.uniform(0.05, 1.2))
        with running(tmp_path, world) as daemon:
            wait_for(lambda: daemon.metric("foresail_ticks_total") >= 5, "five ticks")
            assert daemon.stop() == 0
        writes, pages, _ = there.seen()
    log = audit_of(tmp_path)
    rows = list(log.entries())
    assert log.verify().intact
    decided = [(row, read_back(Decision, row.record["decision"])) for row in rows if row.record.get("decision")]

    # Memory: every decision was made from the one before it, whoever made that.
    assert [d.generation for _, d in decided] == list(range(1, len(decided) + 1))
    for (_, before), (row, _) in itertools.pairwise(decided):
        assert row.record["memory"]["generation"] == before.generation

    # Record: every intent has an outcome, found out from the platform where the daemon could not say.
    assert log.without_outcome(1000) == []
    outcomes = {row.record["intent"]: row for row in rows if "intent" in row.record}
    found_out = [row for row in outcomes.values() if "died" in row.record["error"]]
    results = Counter(result["outcome"] for row in found_out for result in row.record["results"])
    said = f"{len(decided)} decisions, {len(writes)} writes, {len(found_out)} cut off by a kill: {dict(results)}"
    assert found_out, "no kill fell between an intent and its outcome"

    # Scale: what is on record as done was done, what is on record as held was not, and nothing was done unrecorded.
    claimed: Counter[tuple[str, int, int]] = Counter()
    for row, decision in decided:
        outcome = outcomes.get(row.id)
        told = {(r["act"], r["subject"]): r["outcome"] for r in outcome.record["results"]} if outcome else {}
        for plan in decision.scaling:
            if told[("scale", str(plan.pool))] == "done":
                claimed[(str(plan.pool), plan.version, plan.desired)] += 1
    done = Counter((w.subject, w.before, w.wanted) for w in writes if w.act == "scale" and w.done)
    assert claimed == done
    assert set(done.values()) == {1}

    # Restarts: no life of a replica was ended twice; pages: none came twice in one episode.
    ended = Counter((w.subject, w.before) for w in writes if w.act == "restart" and w.done)
    assert all(count == 1 for count in ended.values())
    told_of = Counter((page.subject, page.cause) for page in pages)
    record_property("kills", f"{said}; {len(ended)} restarts, pages {dict(told_of)}")
    logging.getLogger(__name__).info("%s; %s restarts, pages %s", said, len(ended), dict(told_of))
    log.close()


def test_told_to_stop_in_a_write_that_does_not_end_it_leaves_and_the_next_one_finds_out(tmp_path: Path) -> None:
    text = settings_text(tmp_path, daemon="  stop_within_s: 0.3")
    with world_process([60.0] * 3000) as world:
        there = world.connect()
        there.hold("after")
        with running(tmp_path, world, text) as daemon:
            wait_for(there.held, "write under way")
            began = time.monotonic()
            assert daemon.stop() == 0
            assert time.monotonic() - began < 20.0
            assert daemon.told("a tick does not end")
        there.hold("")
        with running(tmp_path, world, text) as daemon:
            wait_for(lambda: daemon.told("an act had no outcome on record"), "finding out")
            assert daemon.told("an act had no outcome on record")[0]["outcome"] == "done"


def test_told_to_stop_in_a_write_that_ends_in_time_it_is_settled(tmp_path: Path) -> None:
    with world_process([60.0] * 3000) as world:
        there = world.connect()
        there.hold("after")
        with running(tmp_path, world, settings_text(tmp_path)) as daemon:
            wait_for(there.held, "write under way")
            assert daemon.process.pid is not None
            os.kill(daemon.process.pid, signal.SIGTERM)
            there.hold("")
            daemon.process.join(WAIT_S)
            assert daemon.process.exitcode == 0
    log = audit_of(tmp_path)
    assert log.without_outcome(9) == []
    assert log.recent(9, ("acted",))
    log.close()
