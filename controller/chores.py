"""What is looked after beside the ticks: settings, the model that forecasts, history, the log's size, retraining."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from controller.adapters.audit_retention import Retention
from controller.adapters.sql_audit import SqlAudit
from controller.cadence import Cadence, Lane
from controller.champion import Seats
from controller.errors import ForesailError, RegistryError
from controller.last_training import DONE, FAILED, RUNNING, WAITING, Training, TrainingDiary
from controller.live_loop import LiveLoop
from controller.live_skill import LiveSkill
from controller.reload import SettingsFile
from controller.retrain import Retraining
from controller.telemetry import Telemetry
from policies.decisions import Page

RETENTION_EVERY_S = 600.0
HISTORY_RETRY_S = 60.0
RETRAIN_LOOK_S = 600.0
CHORES = ("reload", "champion", "history", "retention", "skill")
ALSO_STANDING_BY = ("reload", "champion")
"""Chores of a process for which another one ticks: what it needs to take over, and nothing that is to be done once."""
MOST_LOADS = 200
"""Workloads that forecasters are compared on at a time; a larger fleet takes turns."""


class Chores:
    """Does each chore at its interval; what goes wrong in one is told, and concerns neither the ticks nor the others.

    Attributes:
        refused: Why the settings file as it is now is not in use; empty when it is.
    """

    def __init__(
        self, live: LiveLoop, file: SettingsFile, audit: SqlAudit, telemetry: Telemetry, cadence: Cadence
    ) -> None:
        self.refused = ""
        self._live, self._file, self._audit = live, file, audit
        self._telemetry, self._cadence = telemetry, cadence
        self._retraining, self._diary, self._wanted = Retraining(), TrainingDiary(), ""
        self._skill, self._next_load = LiveSkill(telemetry), 0
        self._told_to_reload = False
        self._history_known = False
        self._log = structlog.get_logger("foresail.chores")

    def schedule(self, at_once: bool = False) -> None:
        """Set the ticks and every chore to the intervals of the settings in use, first after that or ``at_once``."""
        daemon = self._live.settings.daemon
        self._cadence.every("tick", self._live.tick_s, self._live.ticker.tick, "tick", at_once)
        self._at("reload", daemon.reload_check_s, self._reload, at_once=False)
        self._at("champion", daemon.model_refresh_s, self._refresh_champion, at_once=at_once)
        self._at("history", HISTORY_RETRY_S, self._fill_history, "slow", at_once=at_once)
        self._at("retention", RETENTION_EVERY_S, self._prune, at_once=at_once)
        self._at("skill", daemon.skill.every_s, self._look_at_skill, "skill", at_once=False)
        self._schedule_retraining()

    def reload_now(self) -> None:
        """Read the settings file again, changed or not."""
        self._told_to_reload = True
        self._cadence.soon("reload")

    def retrain_now(self) -> None:
        """Train a new model now, whatever the schedule says, if there is a command that does."""
        if not self._live.settings.daemon.retrain.command:
            self._log.warning("asked to retrain, but daemon.retrain.command is empty")
        elif self._live.standby:
            self._log.warning("asked to retrain, but another process leads; ask that one")
        elif self._diary.newest is not None and self._diary.newest.result == RUNNING:
            self._log.warning("asked to retrain, which is under way; another run does not begin")
        else:
            self._want("somebody asked for it")

    def _want(self, why: str) -> None:
        self._wanted = why
        self._cadence.soon("retrain")

    def told(self) -> Mapping[str, Any]:
        """Return what there is to say of forecasters and of retraining, as JSON."""
        trained = None if self._diary.newest is None else asdict(self._diary.newest)
        return {**self._skill.told(self._live.champion.seats), "retraining": trained}

    def all_soon(self) -> None:
        """Do everything that has an interval now: the schedule may have lost the time."""
        for name in ("tick", *CHORES):
            self._cadence.soon(name)

    def begun(self) -> None:
        """Read recorded load now that there is a loop to learn from it."""
        self._cadence.soon("history")

    def stop(self) -> None:
        """End what takes long."""
        self._retraining.stop()

    def _at(self, name: str, every_s: float, work: Callable[[], str], lane: Lane = "chores", *, at_once: bool) -> None:
        self._cadence.every(name, every_s, partial(self._do, name, work), lane, at_once)

    def _do(self, name: str, work: Callable[[], str]) -> None:
        if self._live.standby and name not in ALSO_STANDING_BY:
            return
        try:
            result = work()
        except ForesailError as error:
            result = "failed"
            self._log.warning("a chore failed", chore=name, why=str(error), repeat_key=f"{name} {error}")
        except Exception:  # noqa: BLE001 - a bug beside the loop must not end it
            result = "failed"
            self._log.exception("a chore ended in an error that nobody foresaw", chore=name, repeat_key=name)
        self._telemetry.chore_done(name, result)

    def _reload(self) -> str:
        """Use other settings if there are any that can be used; keep the old ones otherwise, and say why."""
        if not (self._told_to_reload or self._file.changed()):
            return "nothing"
        self._told_to_reload = False
        old = self._live.settings
        try:
            new = self._file.reload(old)
            self._live.replace(new)
        except ForesailError as error:
            self.refused = str(error)
            self._telemetry.reloaded("refused", current=False)
            self._log.error("settings refused, the old ones stay in use", why=self.refused, repeat_key=self.refused)
            return "failed"
        self.refused = ""
        self._telemetry.reloaded("applied", current=True)
        self._log.info("settings applied", modes=new.modes.model_dump(mode="json"), tick_s=new.policy.tick_s)
        if new.policy.tick_s != old.policy.tick_s:
            self._history_known = False
            self._cadence.soon("history")
        if new.daemon != old.daemon or new.policy.tick_s != old.policy.tick_s:
            self._live.ticker.at_next_tick(self.schedule)
        return "done"

    def _refresh_champion(self) -> str:
        champion = self._live.champion
        try:
            model = champion.news()
        except ImportError as error:
            raise RegistryError(f"a part of the program is not installed: {error.name}") from error
        finally:
            self._tell_unusable(champion.seats)
        if model is None or champion is not self._live.champion:
            return "nothing"
        self._live.use_champion()
        self._log.info("a new champion forecasts", model=model.name, version=champion.version)
        return "done"

    def _tell_unusable(self, seats: Seats) -> None:
        for part, why in seats.unusable.items():
            version = seats.versions.get(part, "")
            key = f"{part} {version} {why}"
            self._log.warning("a model cannot be compared", part=part, version=version, why=str(why), repeat_key=key)

    def _look_at_skill(self) -> str:
        """Compare forecasters on what was seen; roll the champion back, or have one trained, where that follows."""
        live, settings = self._live, self._live.settings.daemon
        count, asked = live.loads(self._next_load, MOST_LOADS, 2.0 * live.tick_s + 5.0)
        self._next_load = self._next_load + MOST_LOADS if self._next_load + MOST_LOADS < count else 0
        if not asked:
            return "nothing"
        loads = {model: load for model, (load, _) in asked.items()}
        steps = {model: ahead for model, (_, ahead) in asked.items()}
        champion = live.champion
        look = self._skill.look(live.now, loads, steps, champion.seats, settings.skill)
        done = ""
        if champion is live.champion:  # else the settings name another registry or model by now
            done = self._skill.act(look, champion, settings.skill, live.use_champion)
        if done:
            live.page(Page("forecasts", "a champion was rolled back", done))
        for drift in look.drifts:
            self._log.warning("drift", kind=drift.kind, what=drift.reason, repeat_key=f"drift {drift.kind}")
        retrain = settings.retrain
        if look.drifts and retrain.command and retrain.on_drift:
            last = self._diary.last(*self._training_place, live.now)
            if last.result == WAITING or live.now - last.at >= retrain.drift_quiet_s:
                self._want(f"drift: {'; '.join(drift.reason for drift in look.drifts)}")
        return "done"

    def _fill_history(self) -> str:
        """Read recorded load once there is a loop to learn from it."""
        if self._history_known or self._live.ticker.loop is None:
            return "nothing"
        found = self._live.fill_history()
        self._history_known = True
        return "done" if found else "nothing"

    def _prune(self) -> str:
        gone = Retention(self._audit.engine, self._live.settings.audit).prune(self._live.now)
        for segment in gone:
            self._log.info(
                "pruned the audit log",
                rows=f"{segment.first} to {segment.last}",
                why=segment.why,
                archive=segment.archive or "none",
                repeat_key=f"pruned {segment.last}",
            )
        return "done" if gone else "nothing"

    def _schedule_retraining(self) -> None:
        retrain = self._live.settings.daemon.retrain
        if retrain.command:
            self._at("retrain", min(retrain.every_s, RETRAIN_LOOK_S), self._retrain, "slow", at_once=False)
        else:
            self._cadence.drop("retrain")

    @property
    def _training_place(self) -> tuple[Path, str]:
        settings = self._live.settings
        return settings.registry.cache_folder, settings.daemon.model_name

    def _retrain(self) -> str:
        """Train a new model if it is wanted or due; what goes wrong changes nothing else."""
        settings = self._live.settings.daemon.retrain
        place, now = self._training_place, self._live.now
        last = self._diary.last(*place, now)
        why, self._wanted = self._wanted, ""
        if not why and now - last.at >= settings.every_s:
            why = f"the last one is {settings.every_s:g} s ago"
        if not why:
            return "nothing"
        self._diary.note(*place, Training(now, RUNNING, why))
        self._log.info("retraining", why=why, command=list(settings.command))
        result = self._retraining.run(settings)
        what = result.ended or f"exit code {result.code}"
        self._diary.note(*place, Training(now, DONE if result.code == 0 else FAILED, f"{why}; {what}"))
        if result.code != 0:
            self._log.error("retraining failed, nothing changes", result=what, output=result.tail)
            return "failed"
        self._log.info("retraining done", output=result.tail)
        self._cadence.soon("champion")
        return "done"
