"""What does a playbook do, step by step, in words that can be read aloud?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import assert_never

from policies.causes import CAUSES
from policies.facts import FACTS, Condition
from policies.healing_settings import HealingSettings
from policies.playbook import (
    Branch,
    Do,
    Duration,
    End,
    Page,
    Parallel,
    Playbook,
    Repeat,
    Sequential,
    Step,
    Wait,
    blocks_of,
    conditions_of,
)
from policies.treatment import paths

_HOUR_S = 3600.0


def outline(name: str, settings: HealingSettings) -> Iterator[str]:
    """Yield the lines that tell what a playbook does: when it is used, its steps, its end, and what its facts mean."""
    playbook = settings.all_playbooks[name]
    yield f"{name}: {playbook.title}"
    yield ""
    yield f"  about      a {playbook.scope}, {whose(name, settings)}"
    yield f"  treats     {', '.join(treated_by(name, settings)) or 'nothing'}"
    if before := escalating_to(name, settings):
        yield f"  after      {', '.join(before)} failed"
    yield f"  may take   {spelled(playbook.longest)} at worst; with waits for permission {spelled(playbook.deadline)}"
    if playbook.holding:
        yield f"  meanwhile  {_held(playbook.holding)}"
    if playbook.until is not None:
        yield f"  over when  {playbook.until}"
    yield ""
    yield from _steps("steps", playbook.steps, "  ")
    if playbook.after:
        yield ""
        yield "  at its end, unless it failed"
        yield from _steps("after", playbook.after, "  ")
    yield ""
    yield f"  if it fails, {playbook.escalates_to or 'a human is told'}{' takes over' if playbook.escalates_to else ''}"
    facts = facts_of(playbook)
    if facts:
        yield ""
        yield "  what is asked"
        width = max(map(len, facts))
        for fact in facts:
            known = FACTS[fact]
            yield f"    {fact:<{width}}  {known.meaning}{f', in {known.unit}' if known.unit else ''}"


def said(step: Step) -> str:
    """Return a step in one line, without what is inside of it."""
    match step:
        case Do():
            return _act(step)
        case Wait():
            late = "goes on" if step.late == "go on" else "fails"
            words = f"wait until {step.wait_until}; {late} after {spelled(step.deadline)}"
            words += f"; {_held(step.holding)} meanwhile" * bool(step.holding)
            return words + f'; tell a human: "{step.page}"' * bool(step.page)
        case Page():
            return f'tell a human: "{step.page}"'
        case End():
            return f"end here: {step.end}"
        case Branch():
            return f"if {step.if_}"
        case Sequential():
            return "in order"
        case Parallel():
            return f"{len(step.parallel)} ways at once"
        case Repeat():
            return f"up to {step.attempts} times, {spelled(Duration(step.back_off_s))} apart, then twice that"
        case _:
            assert_never(step)


def _act(step: Do) -> str:
    words = step.do + f" when {step.when}" * (step.when is not None)
    words += f"; must show{f', with {step.until},' * (step.until is not None)} within {spelled(step.deadline)}"
    if step.attempts > 1:
        words += f", {step.attempts} attempts, {spelled(Duration(step.back_off_s))} apart, then twice that"
    words += "; nothing waits for it" * (not step.holds_up)
    words += f"; taken back by {step.undo} if the playbook fails" * (step.undo is not None)
    return words + f'; until it may be asked for, tell a human: "{step.page}"' * bool(step.page)


def label(path: str) -> str:
    """Return the path of a step as people count.

    >>> label("steps.1.then.0"), label("after.0")
    ('2.then.1', 'after.1')
    """
    parts = [str(int(part) + 1) if part.isdigit() else part for part in path.split(".")]
    return ".".join(parts[parts[0] == "steps" :])


def spelled(duration: Duration) -> str:
    """Return a duration with long times in hours.

    >>> spelled(Duration(90.0)), spelled(Duration(86400.0, 2.0)), spelled(Duration())
    ('90 s', '24 h + 2 lead times', 'no time')
    """
    seconds = duration.seconds
    hours = seconds >= 2 * _HOUR_S and seconds % (_HOUR_S / 2) == 0
    parts = [f"{seconds / _HOUR_S:g} h" if hours else f"{seconds:g} s"] * (seconds > 0)
    parts += [f"{duration.lead_times:g} lead time{'s' * (duration.lead_times != 1)}"] * (duration.lead_times > 0)
    return " + ".join(parts) or "no time"


def whose(name: str, settings: HealingSettings) -> str:
    """Return whether a playbook is shipped, the operator's own, or in the place of a shipped one."""
    if name not in settings.playbooks:
        return "shipped"
    return "own" if name not in HealingSettings().all_playbooks else "own, in place of the shipped one"


def treated_by(name: str, settings: HealingSettings) -> tuple[str, ...]:
    """Return the causes that a playbook is the first remedy for."""
    return tuple(cause for cause in CAUSES if settings.playbook_for(cause) == name)


def escalating_to(name: str, settings: HealingSettings) -> tuple[str, ...]:
    """Return the playbooks that it takes over from."""
    return tuple(each for each, playbook in settings.all_playbooks.items() if playbook.escalates_to == name)


def facts_of(playbook: Playbook) -> tuple[str, ...]:
    """Return the facts that it asks for, in the order of the vocabulary."""
    conditions: list[Condition] = [] if playbook.until is None else [playbook.until]
    for prefix, steps in (("steps", playbook.steps), ("after", playbook.after)):
        conditions += [condition for _, step in paths(prefix, steps) for condition in conditions_of(step).values()]
    asked = {fact for condition in conditions for _, fact in condition.facts()}
    return tuple(fact for fact in FACTS if fact in asked)


def _steps(prefix: str, steps: Sequence[Step], margin: str) -> Iterator[str]:
    for place, step in enumerate(steps):
        path = f"{prefix}.{place}"
        yield f"{margin}{label(path)}  {said(step)}"
        for name, inner in blocks_of(step).items():
            if inner and name == "else":
                yield f"{margin}  else"
            yield from _steps(f"{path}.{name}" if name else path, inner, f"{margin}  ")


def _held(holding: Sequence[str]) -> str:
    return "holds " + ", ".join(holding)
