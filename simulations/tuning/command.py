"""What do the options of ``foresail tune`` mean together, and what does it write where?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from controller.errors import BadInput
from simulations.case import SimulationSettings
from simulations.execution import FIGURES, engine_of
from simulations.job import Job
from simulations.kept_runs import FOLDER, KeptRuns
from simulations.options import jobs_of
from simulations.output_places import check_folder, check_room, refusing
from simulations.progress import progress_bar
from simulations.provenance import Provenance, command_line, provenance_of
from simulations.report import write_whole
from simulations.tuning.advice import Aim, KeepBudget, KeepObjective
from simulations.tuning.outcome import Cost
from simulations.tuning.page import tune_page
from simulations.tuning.session import STUDY, Plan, Tuned, check_parts, claim_folder, parts_of, tune
from simulations.tuning.settings_file import SettingsFile, check_settings_file, tuned_file
from simulations.tuning.space import space_of
from simulations.tuning.tables import as_json

FRONT, PAGE, DIFF = "front.json", "tune.html", "tuned.diff"

_BYTES_PER_RUN, _PAGE_BYTES = 4_096, 6_000_000
"""Disk that a kept run takes, and the page with the script that draws it."""


def plan_of(paths: Sequence[Path], policy: str, options: Mapping[str, Any]) -> Plan:
    """Return what is to be done; ``options`` are those of the command line, by parameter name.

    Raises:
        BadInput: If an option or a file cannot be used, or options contradict each other.
    """
    seed = options["seed"]
    jobs = jobs_of(paths, [policy], [seed], options)
    settings = jobs[0].settings
    knobs = space_of(policy, settings, options["space"], options["tuned"], options["only_named"])
    return Plan(
        choices=tuple(job.trace for job in jobs),
        policy=policy,
        settings=settings,
        model_dir=jobs[0].model_dir,
        knobs=knobs,
        trials=options["trials"],
        seeds=options["seeds"],
        batch=options["batch"],
        search_share=options["search_share"],
        aim=_aim(settings, options),
    )


def run_plan(plan: Plan, out: Path, options: Mapping[str, Any]) -> tuple[Tuned, SettingsFile | None]:
    """Do what is planned and write it to ``out``; return it with the settings file, None where nothing is to change.

    The page tells the command that is being run.

    Raises:
        BadInput: If something cannot be run or written.
        ForesailError: If the engine is gone.
    """
    check_folder(out, "--out", (STUDY, FRONT, PAGE, DIFF))
    runs = (plan.trials + 6) * len(plan.choices) * plan.seeds
    check_room(out, _PAGE_BYTES + runs * _BYTES_PER_RUN)
    parts = parts_of(plan)
    jobs = [Job(choice, plan.policy, plan.settings, plan.model_dir) for choice in plan.choices]
    origin = provenance_of(jobs, command_line(click.get_current_context()))
    with engine_of(options) as engine, progress_bar(f"{plan.trials} trials") as show:
        check_parts(plan, parts)
        claim_folder(out, plan, parts, options["fresh"])
        tuned = tune(plan, parts, engine, KeptRuns(out / FOLDER, FIGURES, options["fresh"]), show)
    return tuned, _write(tuned, out, options, origin)


def _write(tuned: Tuned, out: Path, options: Mapping[str, Any], origin: Provenance) -> SettingsFile | None:
    plan, taken = tuned.plan, tuned.advice.taken
    file = None
    if taken is not None:
        file = tuned_file(taken.trial.values, plan.settings, options["config"], options["overrides"], plan.policy)
    texts = {
        out / FRONT: json.dumps(as_json(tuned, file), indent=2, allow_nan=False) + "\n",
        out / PAGE: tune_page(tuned, file, origin),
    }
    if file is not None:
        texts |= {out / file.name: file.text, out / DIFF: file.diff}
    with refusing(f"--out {out}", "make room there and give the same command again: finished runs are kept"):
        for stale in (f"{plan.policy}.tuned.yaml", DIFF):
            with suppress(FileNotFoundError):
                (out / stale).unlink()  # of an earlier command, which advised something else
        write_whole(texts)
    if file is not None and plan.policy == "foresail" and taken is not None:
        check_settings_file(out / file.name, taken.trial.values)
    return file


def _aim(settings: SimulationSettings, options: Mapping[str, Any]) -> Aim:
    gpu_hours, usd = options["budget_gpu_hours"], options["budget_usd"]
    if gpu_hours is not None and usd is not None:
        raise BadInput("two budgets are given", "--budget-gpu-hours and --budget-usd", "give one of them")
    if gpu_hours is not None:
        return KeepBudget(gpu_hours, options["search_share"], "gpu_hours")
    if usd is not None:
        return KeepBudget(usd, options["search_share"], "cost_usd")
    cost: Cost = "gpu_hours" if options["saved"] == "gpu-hours" else "cost_usd"
    return KeepObjective(settings.policy.objective.attainment_ratio, options["margin_ratio"], cost)
