"""How does a finished search read on a terminal and as JSON?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from simulations.tables import percent
from simulations.tuning.advice import UNITS, Judgement, KeepObjective
from simulations.tuning.outcome import Outcome
from simulations.tuning.search import Trial, front
from simulations.tuning.session import Tuned
from simulations.tuning.settings_file import SettingsFile

_SHOWN_POINTS = 12


def as_json(tuned: Tuned, file: SettingsFile | None) -> dict[str, Any]:
    """Return everything there is to say, ready for ``json.dumps``."""
    plan, advice = tuned.plan, tuned.advice
    points = front(tuned.trials, plan.aim.cost)
    return {
        "aim": str(plan.aim),
        "policy": plan.policy,
        "traces": [
            {
                "trace": choice.name,
                "searched_s": [first.start_s, first.stop_s],
                "validated_s": [later.start_s, later.stop_s],
            }
            for choice, (first, later) in zip(plan.choices, tuned.parts.spans, strict=True)
        ],
        "seeds": list(range(plan.settings.seed, plan.settings.seed + plan.seeds)),
        "space": [{"key": knob.key, "range": str(knob), "why": knob.why} for knob in plan.knobs],
        "advice": {
            "trial": 0 if advice.taken is None else advice.taken.trial.number,
            "values": {} if advice.taken is None else changed(tuned, advice.taken.trial),
            "why": advice.why,
            "diff": None if file is None else file.diff,
        },
        "baseline": {
            "values": dict(plan.baseline.values),
            "search": advice.baseline.outcome.as_json(),
            "validation": advice.validation.as_json(),
        },
        "candidates": [judgement.as_json() for judgement in advice.judged],
        "front": [trial.number for trial in points],
        "trials": [
            {"trial": trial.number, "values": dict(trial.values), **trial.outcome.as_json()} for trial in tuned.trials
        ],
    }


def changed(tuned: Tuned, trial: Trial) -> dict[str, Any]:
    """Return what differs from the baseline in the settings of ``trial``."""
    before = tuned.plan.baseline.values
    return {key: value for key, value in trial.values.items() if value != before[key]}


def shown(tuned: Tuned, file: SettingsFile | None) -> RenderableType:
    """Return the front, the candidates beside the baseline on both parts, and the advice."""
    return Group(*_parts(tuned, file))


def _parts(tuned: Tuned, file: SettingsFile | None) -> Iterator[RenderableType]:
    plan, advice = tuned.plan, tuned.advice
    yield Text(f"Looked for: {plan.aim}")
    for choice, (first, later) in zip(plan.choices, tuned.parts.spans, strict=True):
        text = f"{choice.name}: searched {first.start_s:g} to {first.stop_s:g} s, "
        yield Text(f"{text}validated {later.start_s:g} to {later.stop_s:g} s")
    yield _front_table(tuned)
    yield _validation_table(tuned)
    for judgement in advice.judged:
        yield Text(f"trial {judgement.trial.number}: {judgement.why}")
    if file is None:
        yield Text(f"\nAdvice: keep the settings as they are. {advice.why[:1].upper()}{advice.why[1:]}.", style="bold")
        return
    assert advice.taken is not None  # noqa: S101 - there is a file only where something is taken
    yield Text(f"\nAdvice: take trial {advice.taken.trial.number}. It {advice.why}.\n", style="bold")
    yield Text(file.diff.rstrip())


def _front_table(tuned: Tuned) -> Table:
    cost = tuned.plan.aim.cost
    points = front(tuned.trials, cost)
    table = Table(
        box=SIMPLE_HEAD, title=f"Front of {len(tuned.trials)} trials on the part searched", title_justify="left"
    )
    for title in ("trial", UNITS[cost], "within objective"):
        table.add_column(title, justify="right")
    table.add_column("changed most")
    step = max(1, len(points) // _SHOWN_POINTS)
    for trial in points[::step]:
        table.add_row(str(trial.number), *_figures(tuned, trial.outcome), ", ".join(_largest(tuned, trial)))
    return table


def _validation_table(tuned: Tuned) -> Table:
    unit = UNITS[tuned.plan.aim.cost]
    table = Table(box=SIMPLE_HEAD, title="Candidates beside the baseline", title_justify="left")
    titles = ("trial", f"search\n{unit}", "search\nwithin", f"later\n{unit}", "later\nwithin", "difference\nlater")
    for title in titles:
        table.add_column(title, justify="right")
    advice = tuned.advice
    base = advice.baseline.outcome
    table.add_row("baseline", *_figures(tuned, base), *_figures(tuned, advice.validation), "")
    for judgement in advice.judged:
        mine = judgement.trial
        style = "bold" if judgement.taken else ""
        row = (*_figures(tuned, mine.outcome), *_figures(tuned, judgement.validation), _apart(tuned, judgement))
        table.add_row(str(mine.number), *row, style=style)
    return table


def _figures(tuned: Tuned, outcome: Outcome) -> tuple[str, str]:
    return f"{outcome.cost(tuned.plan.aim.cost):.4g}", percent(outcome.attainment_ratio)


def _apart(tuned: Tuned, judgement: Judgement) -> str:
    if isinstance(tuned.plan.aim, KeepObjective):
        return f"{judgement.saved.mean:+.3g} ± {judgement.saved.half_width:.2g}"
    return f"{judgement.gained.mean:+.2%} ± {judgement.gained.half_width:.2%}"


def _largest(tuned: Tuned, trial: Trial, most: int = 3) -> list[str]:
    """Return the settings that were moved furthest, as shares of their ranges."""
    moved = []
    for knob in tuned.plan.knobs:
        before, after = tuned.plan.baseline.values[knob.key], trial.values.get(knob.key)
        if after is not None and after != before:
            name = knob.key.rpartition(".")[2]
            if knob.choices or before is None:
                moved.append((-1.0, f"{name} {after}"))
            else:
                moved.append((-abs(float(after) - float(before)) / (knob.high - knob.low), f"{name} {after:g}"))
    return [text for _, text in sorted(moved)[:most]] or ["baseline"]
