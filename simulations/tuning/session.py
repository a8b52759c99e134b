"""What does ``foresail tune`` do: cut the trace in time, search its first part, judge by the rest, go on if stopped?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from controller.errors import BadInput
from simulations.case import SimulationSettings
from simulations.execution import FIGURES, Engine, RunFigures, run_all
from simulations.job import Job, TraceChoice
from simulations.kept_runs import KeptRuns
from simulations.output_places import refusing
from simulations.report import write_whole
from simulations.run_identity import code_digest, folder_digests, trace_identity
from simulations.trace_span import Span, span_of
from simulations.tuning.advice import MOST_VALIDATED, Advice, Aim, advise, candidates
from simulations.tuning.outcome import Outcome, outcome_of
from simulations.tuning.search import Baseline, Trial, search
from simulations.tuning.space import Knob, Values, possible, value_at, with_values

STUDY = "study.json"
"""File that says what the folder's trials are about, so that no other command goes on with them."""

LEAST_TICKS = 10
"""Fewest decisions in either part: fewer show nothing of an autoscaler."""

_SHOWN_DIFFERENCES = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What is tuned and how; everything here but ``trials`` and ``aim`` decides which trials there are.

    Attributes:
        choices: The traces, as asked for.
        settings: Those that trial 0 runs with, under the first seed.
        seeds: How many, from that of the settings on.
        batch: Trials asked for before any is told.
        search_share: Share of each trace's time that is searched.
    """

    choices: tuple[TraceChoice, ...]
    policy: str
    settings: SimulationSettings
    model_dir: Path | None
    knobs: tuple[Knob, ...]
    trials: int
    seeds: int
    batch: int
    search_share: float
    aim: Aim

    @property
    def baseline(self) -> Baseline:
        """What trial 0 has in the place of each knob."""
        return Baseline({knob.key: value_at(self.settings, knob.key) for knob in self.knobs})


@dataclass(frozen=True, slots=True)
class Parts:
    """The part of each trace that is searched, and the later part that no trial sees."""

    search: tuple[TraceChoice, ...]
    validation: tuple[TraceChoice, ...]
    spans: tuple[tuple[Span, Span], ...]


@dataclass(frozen=True, slots=True)
class Tuned:
    """What came of it."""

    plan: Plan
    parts: Parts
    trials: tuple[Trial, ...]
    validated: Mapping[int, Outcome]
    advice: Advice
    reused_runs: int


def parts_of(plan: Plan) -> Parts:
    """Return each trace in two parts, cut at a tick.

    Raises:
        BadInput: If a trace cannot be used, or a part would be too short.
    """
    tick_s = plan.settings.policy.tick_s
    spans = []
    for choice in plan.choices:
        whole = span_of(choice, plan.settings)
        cut_s = whole.start_s + math.floor(whole.length_s * plan.search_share / tick_s) * tick_s
        parts = Span(whole.start_s, cut_s), Span(cut_s, whole.stop_s)
        shortest_s = min(part.length_s for part in parts)
        if shortest_s < LEAST_TICKS * tick_s:
            what = (
                f"{whole.length_s:g} s are too short to search one part and validate on the other: the shorter would "
            )
            what += f"last {max(shortest_s, 0):g} s, {LEAST_TICKS} ticks of {tick_s:g} s are the least"
            raise BadInput(what, str(choice.path), "give a longer trace, or another --search-share")
        spans.append(parts)
    return Parts(*_choices(plan, spans), tuple(spans))


def tune(
    plan: Plan,
    parts: Parts,
    engine: Engine,
    kept: KeptRuns[RunFigures],
    show: Callable[[float, str], None],
) -> Tuned:
    """Search, validate and advise. ``show`` is told which share is done, and the best so far.

    Raises:
        BadInput: If a run cannot be done or kept.
        ForesailError: If the engine is gone.
    """
    total = (plan.trials + 1 + MOST_VALIDATED) * len(plan.choices) * plan.seeds
    behind, note = 0, "trial 0 is the baseline"

    def outcomes(choices: Sequence[TraceChoice], wanted: Sequence[Values]) -> list[Outcome]:
        nonlocal behind
        jobs = _jobs(plan, choices, wanted)
        runs = run_all(FIGURES, jobs, engine, lambda done: show(min(1.0, (behind + done) / total), note), kept)
        behind += len(jobs)
        each = len(choices) * plan.seeds
        return [outcome_of(runs[first : first + each]) for first in range(0, len(runs), each)]

    trials: list[Trial] = []
    found = search(
        plan.knobs, plan.baseline, plan.trials, plan.batch, plan.settings.seed, plan.aim.cost,
        lambda wanted: outcomes(parts.search, wanted), partial(possible, plan.settings),
    )  # fmt: skip
    for trials in found:
        note = _best_so_far(trials, plan.aim)
    looked_at = [trials[0], *candidates(trials, plan.aim)]
    note = "looking at the later part"
    later = outcomes(parts.validation, [trial.values for trial in looked_at])
    validated = {trial.number: outcome for trial, outcome in zip(looked_at, later, strict=True)}
    return Tuned(plan, parts, tuple(trials), validated, advise(trials, plan.aim, validated), kept.reused)


def claim_folder(out: Path, plan: Plan, parts: Parts, fresh: bool) -> None:
    """Note in ``out`` what its trials are about; make sure that those that are there are about the same.

    More trials, another margin or another budget go on with what is there.

    Raises:
        BadInput: If the folder belongs to another search, naming what differs; if it cannot be written.
    """
    mine = json.loads(json.dumps(_about(plan, parts)))
    path = out / STUDY
    if not fresh and path.exists():
        try:
            theirs = json.loads(path.read_bytes())
        except ValueError:
            theirs = None  # cut off: nothing to compare with, and runs are told apart by themselves
        if isinstance(theirs, dict) and theirs != mine:
            listed = "; ".join(_differences(theirs, mine))
            remedy = "give the command that it was made with, another --out, or --fresh to begin anew here"
            raise BadInput(f"the folder has trials of another search: {listed}", f"--out {out}", remedy)
    with refusing(f"--out {out}", "name a folder with room for it"):
        out.mkdir(parents=True, exist_ok=True)
        write_whole({path: json.dumps(mine, indent=2) + "\n"})


def _choices(plan: Plan, spans: Sequence[tuple[Span, Span]]) -> tuple[tuple[TraceChoice, ...], tuple[TraceChoice, ...]]:
    first, later = (
        tuple(
            replace(choice, start_s=pair[part].start_s, duration_s=pair[part].length_s)
            for choice, pair in zip(plan.choices, spans, strict=True)
        )
        for part in (0, 1)
    )
    return first, later


def check_parts(plan: Plan, parts: Parts) -> None:
    """Make sure that both parts can be run, before hours are spent on the first.

    Raises:
        BadInput: If a trace, the model or the settings cannot be used.
    """
    for choice in (*parts.search, *parts.validation):
        Job(choice, plan.policy, plan.settings, plan.model_dir).check()


def _jobs(plan: Plan, choices: Sequence[TraceChoice], wanted: Sequence[Values]) -> list[Job]:
    """Return the runs of each trial on each trace with each seed, in this order."""
    seeds = range(plan.settings.seed, plan.settings.seed + plan.seeds)
    return [
        Job(choice, plan.policy, settings.model_copy(update={"seed": seed}), plan.model_dir)
        for settings in (with_values(plan.settings, values) for values in wanted)
        for choice in choices
        for seed in seeds
    ]


def _best_so_far(trials: Sequence[Trial], aim: Aim) -> str:
    found = candidates(trials, aim)
    best = found[0] if found else trials[0]
    unit = "GPU h" if aim.cost == "gpu_hours" else "$"
    what = f"trial {best.number}" if best.number else "the baseline"
    outcome = best.outcome
    return f"{len(trials)} trials, best {what}: {outcome.attainment_ratio:.2%}, {outcome.cost(aim.cost):.4g} {unit}"


def _about(plan: Plan, parts: Parts) -> dict[str, Any]:
    """Return what decides the trials, flat, so that a difference can be named."""
    said: dict[str, Any] = {"the code of Foresail": code_digest()[:16], "policy": plan.policy}
    for number, (choice, (first, later)) in enumerate(zip(plan.choices, parts.spans, strict=True), start=1):
        known = {name: getattr(choice, name) for name in choice.__slots__ if name not in ("path", "name")}
        said |= {f"trace {number} {name}": value for name, value in {**trace_identity(choice), **known}.items()}
        said[f"trace {number} searched"] = f"{first.start_s:g} to {first.stop_s:g} s"
        said[f"trace {number} validated"] = f"{later.start_s:g} to {later.stop_s:g} s"
    said |= {"seeds": plan.seeds, "batch": plan.batch, "saved": plan.aim.cost}
    said |= {f"range of {knob.key}": str(knob) for knob in plan.knobs}
    said["model"] = None if plan.model_dir is None else folder_digests(plan.model_dir)
    return said | dict(_leaves("", plan.settings.model_dump(mode="json")))


def _leaves(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        return [(prefix, value)]
    return [leaf for name, inner in value.items() for leaf in _leaves(f"{prefix}.{name}" if prefix else name, inner)]


def _differences(theirs: Mapping[str, Any], mine: Mapping[str, Any]) -> list[str]:
    keys = [key for key in dict.fromkeys((*theirs, *mine)) if theirs.get(key) != mine.get(key)]
    told = [f"{key} is {_short(theirs.get(key))} there and {_short(mine.get(key))} here" for key in keys]
    more = [f"and {len(told) - _SHOWN_DIFFERENCES} more"] if len(told) > _SHOWN_DIFFERENCES else []
    return told[:_SHOWN_DIFFERENCES] + more


def _short(value: Any) -> str:
    return "not said" if value is None else str(value)[:40]
