"""What do the options of a simulation mean together, and which of them cannot be?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from controller.adapters.registry_store import RegistrySettings
from controller.errors import AuditError, BadInput, RegistryError
from controller.ports import AuditLog
from controller.settings import Settings, load_settings
from policies.fleet import PoolKey, Role
from policies.placement import PoolSettings
from policies.slo import ServiceObjective
from simulations.case import DEFAULT_PROFILE, SimulationSettings, pool_name
from simulations.fault_syntax import parse_fault
from simulations.job import Job, TraceChoice
from simulations.peers.names import POLICIES
from simulations.platform_settings import PlatformSettings
from simulations.profile_files import profile_of
from simulations.scenario import Scenario, for_simulator, laid_over, read_scenario
from simulations.startup import LEAD_TIME_S, StartupModel, startup_named
from simulations.sweep import variants_of, varied
from simulations.trace_files import GENERATED
from simulations.trace_steps import parse_step

_V = TypeVar("_V")

_PARTS = ("start_s", "duration_s")


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The options of ``simulate`` and ``compare`` that decide how a run goes; None where nothing was said."""

    config: Path | None = None
    overrides: tuple[str, ...] = ()
    scenario: Path | None = None
    faults: tuple[str, ...] = ()
    profiles: tuple[str, ...] = ()
    prefix_cache: str | None = None
    routing: str | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None
    initial_replicas: int | None = None
    lead_time_s: float | None = None
    startup: str | None = None
    ttft_s: float | None = None
    tpot_s: float | None = None
    attainment_ratio: float | None = None


def jobs_of(
    paths: Sequence[Path],
    policies: Sequence[str],
    seeds: Sequence[int],
    options: Mapping[str, Any],
    *,
    sweep: bool = False,
) -> list[Job]:
    """Return a job per trace, policy and seed; ``options`` are those of the command line, by parameter name.

    Without ``paths`` the load is the scenario's own, or generated.
    With ``sweep`` every policy also runs with each setting of its grid.

    Raises:
        BadInput: If an option or a file cannot be used, or options contradict each other.
    """
    for policy in policies:
        if policy not in POLICIES:
            raise BadInput(f"no policy is called {policy!r}", "--policy", f"known: {', '.join(POLICIES)}")
    scenario = read_scenario(options["scenario"])
    choices = _choices(paths, scenario, options)
    said = _filled(RunOptions, options)
    settings, registry = settings_of(said, seeds[0])
    model_dir = model_folder(options["model_dir"], options["model"], registry)
    return [
        Job(choice, policy, varied(settings, changes).model_copy(update={"seed": seed}), model_dir, variant)
        for choice in choices
        for policy in policies
        for variant, changes in (variants_of(policy) if sweep else {"": ""}).items()
        for seed in seeds
    ]


def _choices(paths: Sequence[Path], scenario: Scenario, options: Mapping[str, Any]) -> list[TraceChoice]:
    """Return which traces are replayed: those of the command line, the scenario's own, or the generated one."""
    for spec in scenario.steps:
        parse_step(spec)
    own = {name: getattr(scenario, name) if options.get(name) is None else options[name] for name in _PARTS}
    said = {**options, **own, "steps": scenario.steps}
    if paths or scenario.workload is None:
        chosen = _named(paths or (Path(GENERATED),))
        return [_filled(TraceChoice, {**said, "path": path, "name": name}) for path, name in chosen]
    if options.get("trace_model") is not None:
        what = "the scenario brings its own load, which names no models"
        raise BadInput(what, "--trace-model", "leave it out, or give a --trace")
    name = options["scenario"].stem
    return [_filled(TraceChoice, {**said, "path": Path(name), "name": name, "workload": scenario.workload})]


def settings_of(options: RunOptions, seed: int) -> tuple[SimulationSettings, RegistrySettings]:
    """Return the settings of a run, and where trained models are kept. An option wins over a file.

    Raises:
        BadInput: If a file or an option cannot be used, or they contradict each other.
    """
    scenario = read_scenario(options.scenario)
    options = _with_scenario(options, scenario)
    overrides = (*scenario.set, *options.overrides)
    settings = load_settings(options.config, [text for text in overrides if not for_simulator(text)])
    faults = (*scenario.faults, *options.faults)
    for spec in faults:
        parse_fault(spec)
    startup = _startup(options.startup)
    simulation = SimulationSettings(
        pools=_pools(options, settings),
        platform=PlatformSettings() if startup is None else PlatformSettings(startup=startup),
        lead_time_s=options.lead_time_s or LEAD_TIME_S,
        initial_replicas=options.initial_replicas,
        faults=faults,
        seed=seed,
        policy=settings.policy.model_copy(update={"objective": _objective(options, settings.policy.objective)}),
        forecast=settings.forecast,
    )
    _check_steps(simulation)
    routing = () if options.routing is None else (f"fleet.routing={options.routing}",)
    simulation = laid_over(simulation, [*(text for text in overrides if for_simulator(text)), *routing])
    if options.lead_time_s is None:
        simulation = simulation.model_copy(update={"lead_time_s": simulation.platform.startup.median_s})
    return simulation, settings.registry


def _startup(name: str | None) -> StartupModel | None:
    try:
        return None if name is None else startup_named(name)
    except ValueError as error:
        raise BadInput(str(error), f"--startup {name}", "name one of them") from None


def _with_scenario(options: RunOptions, scenario: Scenario) -> RunOptions:
    """Return the options with what the scenario says where they say nothing."""
    names = ("lead_time_s", "min_replicas", "max_replicas", "ttft_s", "tpot_s", "prefix_cache", "routing")
    more = {name: getattr(scenario, name) for name in names if getattr(options, name) is None}
    return replace(options, profiles=options.profiles or scenario.profiles, **more)


def policies_named(text: str) -> tuple[str, ...]:
    """Return the policies in a list such as ``foresail,hpa``; ``all`` is every one.

    Raises:
        BadInput: If one is unknown or named twice.
    """
    names = POLICIES if text.strip() == "all" else tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in POLICIES:
            raise BadInput(f"no policy is called {name!r}", "--policies", f"known: {', '.join(POLICIES)}, or all")
    if len(set(names)) < len(names):
        raise BadInput("a policy is named twice", f"--policies {text}", "name each once")
    return names


def model_folder(model_dir: Path | None, model: str | None, registry: RegistrySettings) -> Path | None:
    """Return the folder of the trained model that is asked for, fetched from the registry where it is named.

    ``model`` is ``NAME`` (its champion), ``NAME@alias`` or ``NAME@version``.

    Raises:
        BadInput: If both are given, or the registry has no such model or cannot be opened.
    """
    if model is None:
        return model_dir
    if model_dir is not None:
        raise BadInput("two models are given", "--model and --model-dir", "give one of them")
    name, at_sign, alias = model.partition("@")
    if not name.strip() or (at_sign and not alias.strip()):
        what = "no version or alias is named after the @" if name.strip() else "no model is named"
        raise BadInput(what, f"--model {model!r}", "write NAME, NAME@ALIAS or NAME@VERSION, or leave --model out")
    from controller.adapters.mlflow_registry import MlflowRegistry

    try:
        return MlflowRegistry.open(registry, writes=False).fetch(name, alias or "champion")
    except RegistryError as error:
        raise BadInput(error.what, error.where or f"--model {model}", error.remedy) from None


@contextmanager
def audit_log(path: Path | None) -> Iterator[AuditLog | None]:
    """Yield a fresh audit log in the file ``path``, or None without one. When the run fails, the file is gone again.

    Raises:
        BadInput: If there is such a file already, or it cannot be made.
    """
    if path is None:
        yield None
        return
    from controller.adapters.sql_audit import SqlAudit

    if path.exists():
        what = "folder" if path.is_dir() else "file"
        raise BadInput(f"there is a {what} of this name already", f"--audit {path}", "name one that is to be made")
    try:
        log = SqlAudit.open(f"sqlite:///{path}")
    except AuditError as error:
        raise BadInput(error.what, f"--audit {path}", error.remedy or "name a file in a folder that exists") from None
    try:
        yield log
    except BaseException:
        log.close()
        path.unlink(missing_ok=True)
        raise
    log.close()


def _filled(value_type: type[_V], options: Mapping[str, Any]) -> _V:
    """Return a value from the options that carry its fields' names."""
    names = {field.name for field in fields(value_type)}  # type: ignore[arg-type]  # only ever called with dataclasses
    return value_type(**{name: value for name, value in options.items() if name in names})


def _named(paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Yield each trace with the name that tables call it by: its file's, or its path where files share a name.

    Raises:
        BadInput: If a trace is given twice.
    """
    if len(set(paths)) < len(paths):
        raise BadInput("a trace is given twice", "--trace", "give each once")
    for path in paths:
        alone = sum(other.name == path.name for other in paths) == 1
        yield path, path.name if alone else str(path)


def _pools(options: RunOptions, settings: Settings) -> Mapping[str, PoolSettings]:
    """Return the pools of the options, or those of the settings file where it has some."""
    if settings.policy.pools:
        described = (options.profiles or None, options.min_replicas, options.max_replicas, options.prefix_cache)
        if any(each is not None for each in described):
            what = "the settings file has pools, and pools are described by options too"
            where = "--profile, --min, --max or --prefix-cache"
            raise BadInput(what, where, "leave them out, or take policy.pools out of the file")
        pools = settings.policy.pools
    else:
        pools = dict(_pool(name, options) for name in options.profiles or (DEFAULT_PROFILE,))
        if len(pools) < len(options.profiles):
            raise BadInput("two pools would have one name", "--profile", "name each profile once")
    _check_pools(pools, options)
    return pools


def _pool(profile_name: str, options: RunOptions) -> tuple[str, PoolSettings]:
    bounds = PoolSettings.model_fields
    least = bounds["min_replicas"].default if options.min_replicas is None else options.min_replicas
    most = bounds["max_replicas"].default if options.max_replicas is None else options.max_replicas
    if least > most:
        what = f"the minimum of {least} replicas is more than the maximum of {most}"
        raise BadInput(what, "--min and --max", f"give --min {most} or less, or --max {least} or more")
    name, role = _with_role(profile_name)
    profile = profile_of(name)
    if options.prefix_cache is not None:
        profile = profile.model_copy(update={"prefix_cache": options.prefix_cache})
    return pool_name(profile, role), PoolSettings(profile=profile, min_replicas=least, max_replicas=most)


def _with_role(text: str) -> tuple[str, Role]:
    """Return the profile and the role in a text such as ``NAME:prefill``; unified where it names none."""
    name, colon, role = text.rpartition(":")
    if not colon or role not in set(Role):
        return text, Role.UNIFIED
    return name, Role(role)


def _check_pools(pools: Mapping[str, PoolSettings], options: RunOptions) -> None:
    models = set()
    for name, pool in pools.items():
        try:
            models.add(PoolKey.parse(name).model)
        except ValueError as error:
            raise BadInput(str(error), f"policy.pools.{name}", "name pools model/pool/role") from None
        first = options.initial_replicas
        if first is not None and not pool.min_replicas <= first <= pool.max_replicas:
            what = f"{first} replicas at the start are outside the bounds {pool.min_replicas} to {pool.max_replicas}"
            raise BadInput(what, "--initial", "change --initial, --min or --max")
    if len(models) > 1:
        raise BadInput(f"the pools serve different models: {', '.join(sorted(models))}", "pools", "give one model's")


def _objective(options: RunOptions, base: ServiceObjective) -> ServiceObjective:
    said = {"ttft_s": options.ttft_s, "tpot_s": options.tpot_s, "attainment_ratio": options.attainment_ratio}
    return base.model_copy(update={name: value for name, value in said.items() if value is not None})


def _check_steps(settings: SimulationSettings) -> None:
    tick_s, step_s = settings.policy.tick_s, settings.forecast.step_s
    ratio = step_s / tick_s
    if ratio < 1 or not math.isclose(ratio, round(ratio), rel_tol=1e-9):
        what = f"a forecast step of {step_s:g} s is not a whole multiple of the tick of {tick_s:g} s"
        raise BadInput(what, "forecast.step_s and policy.tick_s", f"give for example forecast.step_s={4 * tick_s:g}")
