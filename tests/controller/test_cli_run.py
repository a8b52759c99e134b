"""What does ``foresail run`` say before it begins, and does ``explain`` read what a daemon leaves, wherever that is?"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

import controller.bootstrap
import controller.daemon
import foresail
from controller.adapters.audit_retention import Retention
from controller.adapters.audit_settings import DAY_S, AuditSettings
from controller.adapters.sql_audit import SqlAudit
from controller.bootstrap import World as Ports
from controller.settings import Settings
from simulations.kubernetes_api.running import running_api
from tests.builders import KEY, ListNotifier
from tests.builders_postgres import PostgresServer
from tests.builders_records import quiet_tick, scaling_tick
from tests.builders_world import World


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "foresail.yaml"
    path.write_text(
        f"policy: {{pools: {{{KEY}: {{profile: llama-3.1-8b-l40s-tp1}}}}}}\n"
        f"audit: {{url: 'sqlite:///{tmp_path}/audit.db'}}\n"
        "platform: {kind: live}\n"
    )
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = foresail.main([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


def seen_by(monkeypatch: pytest.MonkeyPatch, world: World) -> None:
    """Let the daemon of this process look at ``world``, whatever its settings name."""

    def ports(_: Settings) -> Ports:
        return Ports(world, world, world, ListNotifier())

    monkeypatch.setattr(controller.bootstrap, "Worlds", lambda *_: ports)
    monkeypatch.setattr(controller.daemon.run_once, "__defaults__", (ports, world))


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    made.add_pool(KEY, 3)
    seen_by(monkeypatch, made)
    return made


def test_once_prints_the_tick_as_explain_does(capsys: pytest.CaptureFixture[str], file: Path, world: World) -> None:
    code, out, err = run(capsys, "run", "-c", file, "--once")
    assert (code, err) == (0, "")
    for part in ("Tick 1 at", "Seen: load", "Seen: pools", str(KEY), "Decided", "Why", "Chain intact"):
        assert part in out
    assert world.acts == []  # observe is the default
    code, listed, _ = run(capsys, "explain", "1", "-c", file)
    assert (code, listed) == (0, out)


def test_once_in_json_is_the_record(capsys: pytest.CaptureFixture[str], file: Path, world: World) -> None:
    for generation in (1, 2):
        code, out, _ = run(capsys, "run", "-c", file, "--once", "--json")
        printed: dict[str, Any] = json.loads(out)
        assert (code, printed["record"]["decision"]["generation"]) == (0, generation)
        world.advance(15.0)
    assert printed["chain"]["intact"]


def test_a_world_that_cannot_be_seen_is_on_record_and_exits_1(
    capsys: pytest.CaptureFixture[str], file: Path, world: World
) -> None:
    world.store_down = True
    code, out, _ = run(capsys, "run", "-c", file, "--once")
    assert code == 1
    assert "Nothing could be observed, so nothing was done: " in out


def test_what_is_told_before_the_settings_are_read_is_json_as_well(
    capsys: pytest.CaptureFixture[str], file: Path, world: World
) -> None:
    assert world
    kubeconfig = file.with_name("kubeconfig")
    with running_api() as api:
        api.write_kubeconfig(kubeconfig)
    nobody_answers = f"{{kind: kubernetes, kubeconfig: {kubeconfig}, policies: true, timeout_s: 0.5}}"
    file.write_text(file.read_text().replace("{kind: live}", nobody_answers))
    _, _, err = run(capsys, "run", "-c", file, "--once")
    told = [json.loads(line)["event"] for line in err.splitlines()]
    assert "policies not read yet: nothing is done until they are" in told


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--json",), "--json goes with --once"),
        (("--set", "policy.tick_s=0"), "policy.tick_s"),
        (("-c", "/nowhere/foresail.yaml"), "cannot be read"),
        (("--once",), "the settings say nothing under platform"),
    ],
)
def test_what_cannot_be_run_is_said_in_a_line_and_exits_2(
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, "run", *arguments)
    assert (code, out) == (2, "")
    assert what in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_record_that_cannot_be_opened_is_said_without_its_password(
    capsys: pytest.CaptureFixture[str], file: Path, world: World
) -> None:
    assert world
    url = "postgresql://me:s3cret@127.0.0.1:1/audit"
    code, _, err = run(capsys, "run", "-c", file, "--set", f"audit.url='{url}'", "--once")
    assert code == 1
    assert "cannot be opened" in err
    assert "s3cret" not in err


def test_explain_needs_to_be_told_where_the_record_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "explain", "last")
    assert (code, "--audit" in err) == (2, True)


def test_explain_reads_a_record_in_postgresql(capsys: pytest.CaptureFixture[str], postgres: PostgresServer) -> None:
    url = postgres.new_database()
    log = SqlAudit.open(url)
    log.append(scaling_tick(60.0))
    log.close()
    code, out, _ = run(capsys, "explain", "last", "--audit", url)
    assert (code, "3 -> 5 replicas" in out) == (0, True)


def test_explain_goes_on_across_what_was_pruned(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "audit.db"
    log = SqlAudit.open(f"sqlite:///{path}")
    for day in range(60):
        log.append(quiet_tick(day * DAY_S, day + 1))
    assert Retention(log.engine, AuditSettings(), 10).prune(60 * DAY_S)
    log.close()
    code, out, _ = run(capsys, "explain", "--all", "--verify", "--audit", path)
    assert code == 0
    assert "30 rows before them pruned" in out
    assert "rows 21 to 30 (1970-01-21 00:00:00Z to 1970-01-30 00:00:00Z) pruned for their age, kept nowhere" in out
    code, out, _ = run(capsys, "explain", "last", "--audit", path)
    assert "pruned for their age" in out
    code, _, err = run(capsys, "explain", "5", "--audit", path)
    assert (code, "ids go from 31 to 63" in err) == (2, True)
