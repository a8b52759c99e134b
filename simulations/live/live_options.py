"""What is asked of ``foresail live up``, and which settings does its daemon run with?

The daemon's times are those of its defaults, squeezed as the lead time is: engines here start in seconds, not minutes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from controller.errors import BadInput
from policies.engine_profile import EngineProfile
from policies.fleet import PoolKey
from simulations.live.live_pool import EngineSlot, PoolTemplate
from simulations.live.live_profiles import MODEL, live_profile_named
from simulations.live.quick_playbooks import quick_playbooks

FLAVOURS = ("vllm", "sglang")
DEFAULT_POOLS = ("large=emulated-large,replicas=2,max=6", "small=emulated-small,max=4,flavour=sglang")

_BOOT_S = 1.0
"""What an engine process takes to import and listen on a laptop; a part of the lead time."""

_OPENING_START_UP_S = 0.2


@dataclass(frozen=True, slots=True)
class PoolChoice:
    """One pool of the live stack: ``NAME=PROFILE[,replicas=N][,min=N][,max=N][,flavour=vllm|sglang]``."""

    name: str
    profile: EngineProfile
    replicas: int = 1
    least: int = 1
    most: int = 4
    flavour: str = "vllm"

    @classmethod
    def parse(cls, text: str) -> PoolChoice:
        """Return the pool that ``text`` describes.

        Raises:
            BadInput: If it describes none.
        """
        where, remedy = f"--pool {text}", "write NAME=PROFILE[,replicas=N][,min=N][,max=N][,flavour=vllm|sglang]"
        name, _, rest = text.partition("=")
        profile_name, *options = rest.split(",")
        values = dict(option.partition("=")[::2] for option in options)
        try:
            profile = live_profile_named(profile_name)
            flavour = values.pop("flavour", FLAVOURS[0])
            least, most = int(values.pop("min", 1)), int(values.pop("max", 4))
            replicas = int(values.pop("replicas", max(1, least)))
            PoolKey(MODEL, name)
        except ValueError as error:
            raise BadInput(str(error), where, remedy) from None
        if values:
            raise BadInput(f"unknown: {', '.join(values)}", where, remedy)
        if flavour not in FLAVOURS:
            raise BadInput(f"no engine of flavour {flavour!r}", where, f"known: {', '.join(FLAVOURS)}")
        if not 0 <= least <= replicas <= most:
            raise BadInput(f"{replicas} replicas are not between {least} and {most}", where, remedy)
        return cls(name, profile, replicas, least, most, flavour)

    def key(self, model: str) -> PoolKey:
        """Return the pool's key."""
        return PoolKey(model, self.name)


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """The options of ``foresail live up``.

    Attributes:
        out: Folder for everything that is left behind.
        lead_time_s: From asking for a replica to READY.
        trace, scale, start_s, duration_s, speed: What the load player replays, and how; without a trace it is the
            default ramp.
        config: Settings file whose policy is laid over that of the live stack; ``overrides`` are laid over both.
        player: Whether there is a load player; without one the stack runs until it is interrupted.
        most_replicas: Hard cap over all pools.
        restart_backoff_s: How long the platform waits before it starts an engine that exited again, at first.
    """

    out: Path
    pools: tuple[PoolChoice, ...]
    model: str = MODEL
    lead_time_s: float = 20.0
    trace: Path | None = None
    scale: float = 1.0
    start_s: float | None = None
    duration_s: float | None = None
    speed: float = 1.0
    config: Path | None = None
    overrides: tuple[str, ...] = ()
    player: bool = True
    scrape_interval_s: float = 2.0
    most_replicas: int = 12
    restart_backoff_s: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        for option, number in (
            ("--lead-time-s", self.lead_time_s),
            ("--scale", self.scale),
            ("--start", self.start_s),
            ("--duration", self.duration_s),
            ("--speed", self.speed),
            ("--scrape-interval-s", self.scrape_interval_s),
        ):
            if number is not None and not math.isfinite(number):
                raise BadInput("not a finite number", f"{option} {number}", "give a number")
        names = [pool.name for pool in self.pools]
        if len(set(names)) < len(names):
            raise BadInput(f"pool names repeat: {', '.join(names)}", "--pool", "give each pool a name of its own")
        asked = sum(pool.replicas for pool in self.pools)
        if asked > self.most_replicas:
            what = f"{asked} replicas to begin with are more than {self.most_replicas}"
            raise BadInput(what, "--pool", "ask for fewer, or raise --most-replicas")

    def templates(self, environment_command: Sequence[str]) -> tuple[PoolTemplate, ...]:
        """Return what the platform is to run; ``environment_command`` is how a Python module of ours is run."""
        return tuple(self._template(pool, environment_command) for pool in self.pools)

    def _template(self, pool: PoolChoice, module: Sequence[str]) -> PoolTemplate:
        placement_s = 0.2 * self.lead_time_s
        start_up_s = max(0.0, self.lead_time_s - placement_s - _BOOT_S)

        def command(slot: EngineSlot) -> list[str]:
            return [
                *module, "simulations.live.engine", "--id", slot.replica, "--model", self.model,
                "--profile", pool.profile.name, "--flavour", pool.flavour,
                "--port", str(slot.port), "--admin-port", str(slot.admin_port),
                "--start-up-s", f"{_OPENING_START_UP_S if slot.opening else start_up_s:g}",
                "--revision", slot.revision, "--seed", str(self.seed), "--lame-duck-s", "0.2",
                *(word for fault in slot.faults for word in ("--fault", json.dumps(dict(fault)))),
            ]  # fmt: skip

        return PoolTemplate(
            pool.key(self.model),
            command,
            pool.replicas,
            gpus_per_replica=pool.profile.gpus,
            usd_per_replica_hour=pool.profile.gpus * pool.profile.usd_per_gpu_hour,
            placement_s=placement_s,
            weight=float(pool.replicas),
        )


def module_command() -> list[str]:
    """Return how a Python module of Foresail is run as a child: with this interpreter, whatever the folder."""
    return [sys.executable, "-P", "-m"]


def module_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a child's environment needs so that it imports the code that this process runs."""
    root = str(Path(__file__).resolve().parents[2])
    path = environment.get("PYTHONPATH", "")
    # One thread per process: ten engines with a thread pool each would fight over the cores.
    return {"PYTHONPATH": f"{root}:{path}" if path else root, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True, slots=True)
class LivePlaces:
    """Where the daemon of a live stack finds what."""

    prometheus_url: str
    platform_url: str
    token_file: Path
    audit_file: Path
    kill_switch: Path
    status_port: int


def daemon_settings(options: LiveOptions, places: LivePlaces, written: Mapping[str, Any]) -> dict[str, Any]:
    """Return the daemon's settings: those of a squeezed world, with ``written`` (the user's file) laid over them.

    Where the fleet is and what is recorded where is the stack's own.
    """
    scrape_s = options.scrape_interval_s
    squeezed: dict[str, Any] = {
        "policy": {
            "tick_s": 5,
            "plan_expiry_s": 10,
            "objective": {"window_s": 60},
            "lead_time": {"default_s": round(1.15 * options.lead_time_s, 3)},
            "scaling": {"backlog_clear_s": 30},
            "stabilization": {"down_window_s": 30, "unforecast_down_window_s": 60},
            "guardrails": {"up_window_s": 5, "down_window_s": 15, "max_metrics_age_s": max(10, 4 * scrape_s)},
            "traffic": {"slow_start_s": 10},
            "anomaly": {
                "frozen_after_s": max(10, 5 * scrape_s),
                "max_metrics_age_s": max(10, 4 * scrape_s),
                "cold_s": 30,
                "failing": {"max_age_s": max(10, 4 * scrape_s)},
            },
            "healing": {
                "good_after_s": 60,
                "cooldown_s": 30,
                "again_after_s": 120,
                "playbooks": quick_playbooks(
                    {"silent_s": 15, "out_of_traffic_s": 20, "running_s": 60, "back_off_s": 30}
                ),
            },
            "failover": {"return_after_s": 20},
        },
        "forecast": {"step_s": 15, "demand_window_s": 15},
        "modes": {"scaling": "auto", "traffic": "auto", "healing": "auto"},
        "prometheus": {
            "stale_after_s": max(10, 4 * scrape_s),
            "means_window_s": 120,
            "means_refresh_s": 10,
            "latency_window_s": 20,
        },
    }
    own: dict[str, Any] = {
        "policy": {
            "pools": {
                str(pool.key(options.model)): {
                    "profile": json.loads(pool.profile.model_dump_json()),
                    "min_replicas": pool.least,
                    "max_replicas": pool.most,
                }
                for pool in options.pools
            }
        },
        "prometheus": {"url": places.prometheus_url},
        "platform": {"kind": "live", "url": places.platform_url, "token_file": str(places.token_file)},
        "audit": {"url": f"sqlite:///{places.audit_file}"},
        "daemon": {
            "kill_switch": str(places.kill_switch),
            "status": {"address": f"127.0.0.1:{places.status_port}"},
        },
    }
    return _laid_over(_laid_over(squeezed, written), own)


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``below`` with what ``above`` says; sections are joined, anything else is replaced."""
    joined = dict(below)
    for name, value in above.items():
        under = joined.get(name)
        if not (isinstance(under, Mapping) and isinstance(value, Mapping)) or name == "pools":
            joined[name] = value
        else:  # a playbook is replaced as a whole: its steps belong together
            joined[name] = {**under, **value} if name == "playbooks" else _laid_over(under, value)
    return joined
