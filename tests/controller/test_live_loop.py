"""Is the loop of a running daemon replaced between two ticks, with nothing of it lost, whatever a chore finds out?

On a small fluid world and virtual time, with a real audit log in a file.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from controller.adapters.kube.policies import ScalingPolicies
from controller.adapters.sql_audit import SqlAudit
from controller.bootstrap import World as Ports
from controller.cadence import Lane
from controller.champion import Seats
from controller.chores import Chores
from controller.daemon import run_once
from controller.errors import AuditError, BadInput, ForesailError, ObservationError
from controller.last_training import Training, TrainingDiary
from controller.live_loop import LiveLoop
from controller.modes import Mode
from controller.reload import SettingsFile
from controller.settings import Settings
from controller.telemetry import Telemetry
from forecasting.last_value import LastValueForecaster
from forecasting.series import REQUESTS, LoadSeries
from simulations.kubernetes_api.running import running_api
from tests.builders import KEY, MODEL, ListNotifier
from tests.builders_forecasting import series_of
from tests.builders_kube_api import settings_for
from tests.builders_policies import InCluster, Policies, pool_json, until
from tests.builders_world import World

PROFILE = "llama-3.1-8b-l40s-tp1"


@dataclass
class Rig:
    """A live loop, the world under it and the file above it."""

    folder: Path
    world: World = field(default_factory=World)
    made: list[Settings] = field(default_factory=list)
    closed: int = 0
    earlier: Mapping[str, LoadSeries] | Exception = field(default_factory=dict)
    unusable: bool = False
    notifier: ListNotifier = field(default_factory=ListNotifier)

    def __post_init__(self) -> None:
        self.world.add_pool(KEY, 3)
        self.file = self.folder / "foresail.yaml"
        self.write()
        self.source = SettingsFile(self.file)
        self.telemetry = Telemetry(self.settings.daemon.telemetry, lambda: self.world.clock.at)
        self.audit = SqlAudit.open(self.settings.audit.url)
        self.live = self.a_loop()
        self.ticks = self.live.ticker

    def write(self, text: str = "", modes: str = "{scaling: auto, traffic: auto, healing: auto}") -> None:
        registry = "" if "registry:" in text else f"registry: {{cache: '{self.folder}/models'}}\n"
        self.file.write_text(
            f"{registry}policy: {{pools: {{{KEY}: {{profile: {PROFILE}, min_replicas: 3}}}}}}\n"
            f"modes: {modes}\naudit: {{url: 'sqlite:///{self.folder}/audit.db'}}\n{text}"
            if "policy:" not in text
            else text
        )

    @property
    def settings(self) -> Settings:
        return SettingsFile(self.file).load()

    def a_loop(self) -> LiveLoop:
        return LiveLoop(self.settings, self.ports, self.audit, self.telemetry, self.world, self)

    def elapsed(self) -> float:
        return self.world.clock.at

    def ports(self, settings: Settings) -> Ports:
        if self.unusable:
            raise BadInput("there is no such world", "platform.url")
        self.made.append(settings)
        return Ports(self.world, self.world, self.world, self.notifier, self.history, self.close)

    def history(self, _: float) -> Mapping[str, LoadSeries]:
        if isinstance(self.earlier, Exception):
            raise self.earlier
        return self.earlier

    def close(self) -> None:
        self.closed += 1

    def run(self, ticks: int = 1) -> None:
        for _ in range(ticks):
            assert self.ticks.tick() is not None
            self.world.advance(15.0)

    def chores(self) -> tuple[Chores, ByHand]:
        cadence = ByHand()
        chores = Chores(self.live, self.source, self.audit, self.telemetry, cadence)  # type: ignore[arg-type]
        chores.schedule()
        return chores, cadence

    def recorded(self) -> LoadSeries:
        assert self.ticks.loop is not None
        return self.ticks.loop.forecasts.recorded()[MODEL]

    def generation(self) -> int:
        assert self.ticks.loop is not None
        return self.ticks.loop.memory.generation


@dataclass
class ByHand:
    """A cadence in which time passes when a test says so."""

    works: dict[str, tuple[float, Callable[[], object]]] = field(default_factory=dict)
    hurried: list[str] = field(default_factory=list)

    def every(self, name: str, interval_s: float, work: Callable[[], object], lane: Lane, at_once: bool = True) -> None:
        self.works[name] = interval_s, work

    def drop(self, name: str) -> None:
        self.works.pop(name, None)

    def soon(self, name: str) -> None:
        """Wait for the test."""
        self.hurried.append(name)

    def do(self, name: str) -> None:
        self.works[name][1]()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    made = Rig(tmp_path)
    yield made
    made.audit.close()


def look(rig: Rig, cadence: ByHand) -> None:
    """Compare forecasters, which waits for a tick to hand over what was seen."""
    chore = threading.Thread(target=cadence.do, args=("skill",))
    chore.start()
    while chore.is_alive():
        rig.run()
        chore.join(0.05)


def counted(rig: Rig, name: str, **labels: str) -> float:
    return rig.telemetry.registry.get_sample_value(name, labels) or 0.0


# ---- beginning


def test_a_new_loop_goes_on_where_the_last_one_stopped(rig: Rig) -> None:
    rig.run(4)
    again = rig.a_loop()
    again.ticker.tick()
    assert again.ticker.loop is not None
    assert again.ticker.loop.memory.generation == 5
    assert again.ticker.loop.memory.pools.keys() == {str(KEY)}


def test_beginning_waits_for_a_platform_that_has_to_be_asked(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.run()
    rig.world.requests_per_s = 300.0
    with monkeypatch.context() as patched:
        patched.setattr(rig.audit, "settle", _refuses)  # as after a kill: the intent has no outcome
        rig.run(8)
    again = rig.a_loop()
    with monkeypatch.context() as patched:
        patched.setattr(rig.world, "pools", _is_down)
        assert again.ticker.tick() is None
        assert "the platform is down" in again.ticker.waiting
        assert counted(rig, "foresail_ticks_total", outcome="waiting") == 1
    assert again.ticker.tick() is not None
    assert (again.ticker.waiting, rig.audit.without_outcome(9)) == ("", [])


def test_a_human_is_told_once_of_a_platform_that_keeps_the_loop_from_beginning(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.run()
    rig.world.requests_per_s = 300.0
    with monkeypatch.context() as patched:
        patched.setattr(rig.audit, "settle", _refuses)
        rig.run(8)
    again = rig.a_loop()
    with monkeypatch.context() as patched:
        patched.setattr(rig.world, "pools", _is_down)
        for _ in range(20):
            again.ticker.tick()
            rig.world.advance(15.0)
    (page,) = rig.notifier.pages
    assert (page.subject, page.cause) == ("fleet", "F13")
    assert "for 180 s" in page.message
    assert "the platform is down" in page.message
    record = again.ticker.tick()
    assert record is not None
    assert record.decision is not None
    (over,) = [reason for reason in record.decision.reasons if reason.rule == "seen again"]
    assert over.detail == "nothing could be observed for 300 s; a human was told; that is over"


def _is_down() -> None:
    raise ObservationError("the platform is down")


# ---- replacing


def test_other_settings_take_effect_at_the_next_tick_with_memory_and_history_kept(rig: Rig) -> None:
    rig.run(5)
    before = rig.recorded()
    rig.write(modes="{scaling: observe}")
    rig.live.replace(rig.settings)
    assert rig.live.settings.modes.scaling is Mode.AUTO
    rig.run()
    assert rig.live.settings.modes.scaling is Mode.OBSERVE
    assert (rig.generation(), rig.closed, len(rig.made)) == (6, 1, 2)
    assert rig.recorded().values[:5].tolist() == before.values.tolist()


def test_results_that_are_still_owed_to_the_record_are_not_lost_with_the_loop(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.run()
    rig.world.requests_per_s = 300.0
    with monkeypatch.context() as patched:
        patched.setattr(rig.audit, "settle", _refuses)
        for _ in range(8):
            rig.run()
    assert len(rig.audit.without_outcome(9)) == 1
    rig.live.replace(rig.settings)
    rig.run()
    assert rig.audit.without_outcome(9) == []


def _refuses(_: object) -> None:
    raise AuditError("the disk is full")


def test_a_world_that_cannot_be_used_leaves_the_old_one(rig: Rig) -> None:
    rig.run()
    rig.unusable = True
    with pytest.raises(BadInput):
        rig.live.replace(rig.settings)
    rig.run()
    assert (rig.generation(), rig.closed) == (2, 0)


def test_another_tick_has_another_history(rig: Rig) -> None:
    rig.run(3)
    rig.write("forecast: {step_s: 60}\ndaemon: {}\n")
    text = rig.file.read_text().replace("policy: {", "policy: {tick_s: 30, ")
    rig.file.write_text(text)
    rig.live.replace(rig.settings)
    rig.run()
    assert rig.recorded().step_s == 30.0
    assert len(rig.recorded()) == 1


def test_a_champion_forecasts_from_the_next_tick_on(rig: Rig) -> None:
    rig.run()
    assert rig.ticks.loop is not None
    before = rig.ticks.loop.forecasts.forecasters
    rig.live.champion.seats = Seats("1", LastValueForecaster(60.0))
    rig.live.use_champion()
    assert rig.ticks.loop.forecasts.forecasters is before
    rig.run()
    assert len(rig.ticks.loop.forecasts.forecasters) == 2
    rig.live.replace(rig.settings)
    rig.run()
    assert len(rig.ticks.loop.forecasts.forecasters) == 2
    rig.live.champion.seats = Seats()
    rig.live.use_champion()
    rig.run()
    assert len(rig.ticks.loop.forecasts.forecasters) == 1


def test_once_writes_are_forbidden_what_is_decided_is_held(rig: Rig) -> None:
    rig.run(2)
    rig.live.forbid_writes()
    rig.world.requests_per_s = 300.0
    for _ in range(6):
        rig.run()
    newest = rig.ticks.newest
    assert newest is not None
    assert {result.outcome for result in newest.results} == {"held"}
    assert rig.world.acts == []


def test_the_kill_switch_is_a_file(rig: Rig, tmp_path: Path) -> None:
    rig.write(f"daemon: {{kill_switch: '{tmp_path}/STOP'}}\n")
    rig.live = rig.a_loop()
    rig.ticks = rig.live.ticker
    rig.run(2)
    (tmp_path / "STOP").touch()
    rig.world.requests_per_s = 300.0
    rig.run(6)
    assert rig.world.acts == []
    (tmp_path / "STOP").unlink()
    rig.run()
    assert rig.world.acts != []


# ---- ticking


def test_a_bug_is_counted_told_and_forgotten_after_a_good_tick(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig.run()
    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(rig.world, "pools", lambda: 1 / 0)
        assert [rig.ticks.tick() for _ in range(3)] == [None] * 3
    assert rig.ticks.bugs_in_a_row == 3
    assert counted(rig, "foresail_bugs_in_a_row") == 3
    assert rig.audit.recent(1)[0].kind == "blind"
    rig.run()
    assert rig.ticks.bugs_in_a_row == 0
    assert counted(rig, "foresail_ticks_total", outcome="broken") == 3


def test_a_change_that_fails_is_a_bug_of_one_tick(rig: Rig) -> None:
    rig.run()
    rig.ticks.at_next_tick(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    assert rig.ticks.tick() is None
    rig.run()


# ---- chores


def test_settings_that_changed_are_used_and_bad_ones_refused_with_the_reason(rig: Rig) -> None:
    chores, cadence = rig.chores()
    rig.run()
    cadence.do("reload")
    assert counted(rig, "foresail_chores_total", chore="reload", result="nothing") == 1
    rig.write(modes="{scaling: recommend}")
    cadence.do("reload")
    rig.run()
    assert (rig.live.settings.modes.scaling, chores.refused) == (Mode.RECOMMEND, "")
    rig.write(modes="{scaling: sometimes}")
    cadence.do("reload")
    rig.run()
    assert rig.live.settings.modes.scaling is Mode.RECOMMEND
    assert "modes.scaling" in chores.refused
    assert counted(rig, "foresail_config_current") == 0
    rig.write(modes="{scaling: recommend}")
    cadence.do("reload")
    assert (chores.refused, counted(rig, "foresail_config_current")) == ("", 1)
    assert counted(rig, "foresail_config_reloads_total", result="refused") == 1


def test_told_to_reload_it_reads_a_file_that_did_not_change(rig: Rig) -> None:
    chores, cadence = rig.chores()
    rig.run()
    chores.reload_now()
    cadence.do("reload")
    rig.run()
    assert len(rig.made) == 2


def test_policies_of_a_cluster_are_laid_over_the_file_between_two_ticks_and_show_what_came_of_it(
    rig: Rig, tmp_path: Path
) -> None:
    with running_api() as api:
        writes, policies = Policies(api), ScalingPolicies(rig.elapsed, np.random.default_rng(7))
        rig.source = SettingsFile(rig.file, (), InCluster(policies, settings_for(api, tmp_path, policies=True)))
        chores, cadence = rig.chores()
        chores.reload_now()
        cadence.do("reload")
        rig.run()
        writes.create("some", model=MODEL, pools=[pool_json(KEY.pool, minReplicas=6)])

        def followed() -> bool:
            cadence.do("reload")
            rig.run()
            return rig.live.settings.policy.pools[str(KEY)].min_replicas == 6

        until(followed)
        assert chores.refused == ""
        record = rig.ticks.tick()
        assert record is not None
        policies.saw(record)
        until(lambda: "desired" in writes.status("some"))
        policies.close()
    assert writes.status("some")["desired"] == 6
    assert writes.status("some")["mode"] == "auto"
    assert rig.closed == len(rig.made) - 1


def test_intervals_follow_the_settings(rig: Rig) -> None:
    chores, cadence = rig.chores()
    rig.run()
    assert cadence.works["tick"][0] == 15.0
    assert "retrain" not in cadence.works
    text = "daemon: {model_refresh_s: 5, retrain: {command: ['true'], every_s: 60}}\n"
    rig.write(text)
    rig.file.write_text(rig.file.read_text().replace("policy: {", "policy: {tick_s: 30, "))
    cadence.do("reload")
    rig.run()
    assert (cadence.works["tick"][0], cadence.works["champion"][0], cadence.works["retrain"][0]) == (30.0, 5.0, 60.0)
    chores.retrain_now()
    cadence.do("retrain")
    assert counted(rig, "foresail_chores_total", chore="retrain", result="done") == 1
    why = "somebody asked for it; exit code 0"
    assert chores.told()["retraining"] == {"at": rig.live.now, "result": "done", "why": why}


def drifting_load(end_at: float) -> LoadSeries:
    """Nine days of which the last one has four times the load."""
    rates = 8.0 + np.random.default_rng(0).normal(0.0, 0.5, 9 * 5760)
    rates[-5760:] *= 4.0
    return LoadSeries(end_at - len(rates) * 15.0, 15.0, np.stack([rates, 1000.0 * rates, 200.0 * rates], axis=1))


def test_drift_has_a_model_trained_once_and_not_again_for_a_while(rig: Rig) -> None:
    rig.write("daemon: {retrain: {command: ['true']}}\n")
    rig.live.replace(rig.settings)
    rig.earlier = {MODEL: drifting_load(rig.world.clock.at)}
    rig.run()
    _, cadence = rig.chores()
    cadence.do("history")
    rig.run()
    look(rig, cadence)
    assert counted(rig, "foresail_forecast_drift", kind="input") == 1
    assert cadence.hurried.count("retrain") == 1
    cadence.do("retrain")
    look(rig, cadence)
    assert cadence.hurried.count("retrain") == 1


def test_without_load_nothing_is_compared(rig: Rig) -> None:
    _, cadence = rig.chores()
    rig.run()
    look(rig, cadence)
    assert counted(rig, "foresail_chores_total", chore="skill", result="failed") == 0
    assert counted(rig, "foresail_champion_rollbacks_total") == 0


def test_asked_to_retrain_it_does_so_out_of_turn(rig: Rig) -> None:
    rig.write("daemon: {retrain: {command: ['true']}}\n")
    rig.live.replace(rig.settings)
    rig.run()
    chores, cadence = rig.chores()
    chores.retrain_now()
    assert cadence.hurried.count("retrain") == 1


def test_a_model_is_trained_every_interval_however_often_the_daemon_is_started(rig: Rig) -> None:
    rig.write("daemon: {retrain: {command: ['false'], every_s: 7200}}\n")
    rig.live.replace(rig.settings)
    rig.run()

    def runs() -> float:
        return counted(rig, "foresail_chores_total", chore="retrain", result="failed")

    for begun in (0, 0, 0, 1, 1, 1, 2):  # every 50 minutes a daemon that begins anew
        chores, cadence = rig.chores()
        cadence.do("retrain")
        assert runs() == begun
        rig.world.advance(3000.0)
    trained = chores.told()["retraining"]
    assert (trained["result"], trained["why"]) == ("failed", "the last one is 7200 s ago; exit code 1")


def test_a_training_that_the_daemon_did_not_see_the_end_of_failed(tmp_path: Path) -> None:
    diary = TrainingDiary()
    assert diary.last(tmp_path, "load", 5.0) == Training(5.0, "waiting", "")
    diary.note(tmp_path, "load", Training(7.0, "running", "drift"))
    assert TrainingDiary().last(tmp_path, "load", 9.0) == Training(7.0, "failed", "drift; the daemon ended meanwhile")
    assert TrainingDiary().last(tmp_path, "load", 6.0).at == 6.0  # the clock was set back
    for text in ("", "[]", '{"at": "x"}', '{"at": NaN, "result": "", "why": ""}', "[" * 9000):
        (tmp_path / "load.last-training.json").write_text(text)
        assert TrainingDiary().last(tmp_path, "load", 8.0) == Training(8.0, "waiting", "")


def test_recorded_load_comes_before_what_the_loop_has_seen(rig: Rig) -> None:
    _, cadence = rig.chores()
    cadence.do("history")
    assert counted(rig, "foresail_chores_total", chore="history", result="nothing") == 1
    rig.run(3)
    start_at = rig.recorded().start_at
    rig.earlier = {MODEL: series_of(np.arange(100.0), start_at=start_at - 90 * 15.0)}
    cadence.do("history")
    rig.run()
    found = rig.recorded()
    assert len(found) == 90 + 4
    assert found.values[:90, REQUESTS].tolist() == list(np.arange(90.0))
    rig.earlier = ObservationError("asked again")
    cadence.do("history")
    assert counted(rig, "foresail_chores_total", chore="history", result="failed") == 0


def test_history_that_cannot_be_read_is_asked_for_again(rig: Rig) -> None:
    _, cadence = rig.chores()
    rig.run()
    rig.earlier = ObservationError("the store is down")
    cadence.do("history")
    rig.earlier = {MODEL: series_of([7.0] * 10, start_at=rig.recorded().start_at - 150.0)}
    cadence.do("history")
    rig.run()
    assert len(rig.recorded()) == 12


def test_a_bug_in_a_chore_concerns_nobody_else(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    _, cadence = rig.chores()
    rig.run()
    monkeypatch.setattr(rig.live, "fill_history", lambda: 1 / 0)
    cadence.do("history")
    assert counted(rig, "foresail_chores_total", chore="history", result="failed") == 1
    rig.run()


def test_an_old_log_is_pruned_by_its_chore(rig: Rig) -> None:
    _, cadence = rig.chores()
    for _ in range(600):
        rig.audit.append(_blind(rig.world.clock.at - 90 * 86400.0))
    rig.run(2)
    cadence.do("retention")
    assert counted(rig, "foresail_chores_total", chore="retention", result="done") == 1
    assert rig.audit.first_number > 256
    assert rig.audit.verify().intact


def _blind(at: float) -> Any:
    from tests.builders_records import blind_tick

    return blind_tick(at)


# ---- once


def test_one_tick_is_resumed_recorded_and_named_by_its_row(rig: Rig) -> None:
    rig.run(2)
    entry_id = run_once(rig.settings, rig.ports, rig.world)
    entry = rig.audit.read(entry_id)
    assert entry is not None
    assert entry.record["decision"]["generation"] == 3
    assert json.dumps(entry.record)


def test_one_tick_that_cannot_begin_says_why(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.run()
    monkeypatch.setattr(rig.world, "pools", lambda: 1 / 0)
    with pytest.raises(ForesailError, match="no tick"):
        run_once(rig.settings, rig.ports, rig.world)
