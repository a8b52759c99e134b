"""How does the daemon itself behave: its rhythm, its patience with itself, where it is asked how it is?"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from controller.keda_settings import KedaSettings
from controller.retrain import RetrainSettings
from controller.shard_settings import ShardSettings
from controller.skill_settings import SkillSettings
from controller.status_server import StatusSettings
from controller.telemetry_settings import TelemetrySettings


class DaemonSettings(BaseModel):
    """What holds for ``foresail run`` alone. Its rhythm is ``policy.tick_s``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kill_switch: Path = Field(
        Path("foresail-runs/STOP"), description="File that stops every write to the world as long as it exists."
    )
    max_bugs_in_a_row: int = Field(
        5, ge=1, description="Ticks in a row ended by an error nobody foresaw, after which the daemon exits with 1."
    )
    stop_within_s: float = Field(
        20.0, gt=0, description="Seconds that a tick under way gets to end when the daemon is told to stop."
    )
    stuck_after_s: float = Field(
        180.0,
        gt=0,
        description="Seconds without the end of a tick from which /healthz says 503 and the daemon exits with 1 to be "
        "started anew: every call it makes has a shorter bound, so it hangs for good.",
    )
    resume_grace_s: float = Field(
        5.0,
        ge=0,
        description="Seconds that a request of a daemon that was killed may still be on its way, before what the "
        "platform does not show counts as not done.",
    )
    reload_check_s: float = Field(5.0, gt=0, description="Seconds between looks at the settings file for changes.")
    model_name: str = Field(
        "load",
        min_length=1,
        description="Registered model whose champion forecasts; `foresail train` has this default.",
    )
    model_refresh_s: float = Field(60.0, gt=0, description="Seconds between looks at the registry for a new champion.")
    log_level: str = Field(
        "info", pattern="^(debug|info|warning|error)$", description="Least level of log lines: debug to error."
    )
    log_repeat_s: float = Field(
        300.0, ge=0, description="Seconds within which a log line of the same kind is counted instead of written again."
    )
    shard: ShardSettings = Field(
        default_factory=ShardSettings, description="Which part of the workloads this process has, of several."
    )
    skill: SkillSettings = Field(
        default_factory=SkillSettings, description="How forecasters are compared in service, and roll-backs."
    )
    retrain: RetrainSettings = Field(default_factory=RetrainSettings, description="When a new model is trained.")
    status: StatusSettings = Field(default_factory=StatusSettings, description="Health, readiness and metrics by HTTP.")
    keda: KedaSettings | None = Field(
        None, description="Where KEDA asks by gRPC for what is decided; nowhere unless said. Needs `foresail[keda]`."
    )
    telemetry: TelemetrySettings = Field(default_factory=TelemetrySettings, description="What is published.")
