"""What can be asked of playbooks: ``list``, ``show`` and ``check``, which also tries them in the simulator."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from controller.errors import BadInput

if TYPE_CHECKING:
    from controller.settings import Settings
    from policies.healing_settings import HealingSettings
    from simulations.healing.rehearsal import Rehearsal

FAILED = 1

_F = TypeVar("_F", bound=Callable[..., Any])

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


class _ListFirst(click.Group):
    """A group whose first command is meant where none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``list`` before options that are not the group's own."""
        if not args or (args[0].startswith("-") and args[0] not in self.get_help_option_names(ctx)):
            args = ["list", *args]
        return super().parse_args(ctx, args)


def _settings_option(*, required: bool) -> Callable[[_F], _F]:
    return click.option(
        "-c", "--config", "file", type=click.Path(path_type=Path), required=required, metavar="FILE",
        help="Settings file with playbooks of your own.",
    )  # fmt: skip


@click.group(cls=_ListFirst)
def playbooks() -> None:
    """List the playbooks of healing, show one in words, or check and try those of a settings file."""


@playbooks.command("list")
@_settings_option(required=False)
@as_json
def listed(file: Path | None, as_json: bool) -> None:
    """List every playbook: what it is about, what it treats, and how long it may take."""
    from controller.explain import Section, as_text

    healing = _healing(file)
    rows = [_summary(name, healing) for name in healing.all_playbooks]
    if as_json:
        click.echo(json.dumps({"playbooks": rows}, indent=2))
        return
    columns = ("name", "about a", "treats", "after", "steps", "at worst", "whose")
    cells = tuple(tuple(_cell(row[key]) for key in _COLUMNS) for row in rows)
    click.echo(as_text(Section("Playbooks", columns, cells)))


@playbooks.command("show")
@click.argument("name")
@_settings_option(required=False)
@as_json
def show(name: str, file: Path | None, as_json: bool) -> None:
    """Tell in words what the playbook NAME does, and what its conditions mean."""
    from controller.playbook_outline import outline

    healing = _healing(file)
    if name not in healing.all_playbooks:
        near = difflib.get_close_matches(name, healing.all_playbooks, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}? " if near else ""
        raise BadInput(f"there is no playbook {name!r}", "NAME", f"{hint}known: {', '.join(healing.all_playbooks)}")
    if as_json:
        playbook = healing.all_playbooks[name].model_dump(mode="json", exclude_defaults=True)
        click.echo(json.dumps({**_summary(name, healing), "playbook": playbook}, indent=2))
        return
    click.echo("\n".join(outline(name, healing)))


@playbooks.command("check")
@_settings_option(required=True)
@click.option("--dry-run", is_flag=True, help="Try each one in the simulator, against the trouble that it treats.")
@click.option("--all", "every", is_flag=True, help="The shipped ones too.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="Of the small worlds; equal seeds give equal worlds.")  # fmt: skip
@as_json
def check(file: Path, dry_run: bool, every: bool, seed: int, as_json: bool) -> int:
    """Check the playbooks of a settings file; with --dry-run, tell step by step what each one would do.

    Each is tried alone, on pools of six replicas that a fault strikes, under the budgets of the file. Exit code 1: one
    never began, came round again and again, did what is wrong for its failure, or broke an invariant.
    """
    settings = _settings(file)
    healing = settings.policy.healing
    names = list(healing.all_playbooks) if every else _named_in(healing)
    if not dry_run:
        rows = [_summary(name, healing) for name in names]
        if as_json:
            click.echo(json.dumps({"ok": True, "playbooks": rows}, indent=2))
        else:
            click.echo(f"{file}: ok, {len(names) or 'no'} playbook{'' if len(names) == 1 else 's'} to check")
            for row in rows:
                click.echo(f"  {row['name']}: {_use(row)}; {_steps(row['steps'])}, {row['at_worst']} at worst")
        return 0
    from simulations.healing.rehearsal import rehearse
    from simulations.progress import progress_bar

    tried = []
    with progress_bar("dry run", 0.0) as tell:
        for place, name in enumerate(names):
            tell(place / len(names), name)
            tried.append(rehearse(name, settings.policy, seed))
    if as_json:
        click.echo(json.dumps({"ok": all(r.fit for r in tried), "tried": [_rehearsal(r) for r in tried]}, indent=2))
    else:
        for rehearsal in tried:
            click.echo("\n".join(_story(rehearsal)) + "\n")
    return 0 if all(rehearsal.fit for rehearsal in tried) else FAILED


_COLUMNS = ("name", "scope", "treats", "after", "steps", "at_worst", "whose")


def _summary(name: str, healing: HealingSettings) -> dict[str, Any]:
    from controller.playbook_outline import escalating_to, spelled, treated_by, whose
    from policies.treatment import paths

    playbook = healing.all_playbooks[name]
    steps = [*paths("steps", playbook.steps), *paths("after", playbook.after)]
    return {
        "name": name,
        "title": playbook.title,
        "scope": playbook.scope,
        "treats": list(treated_by(name, healing)),
        "after": list(escalating_to(name, healing)),
        "steps": len(steps),
        "at_worst": spelled(playbook.longest),
        "deadline": spelled(playbook.deadline),
        "whose": whose(name, healing),
    }


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value[:2]) + (f" and {len(value) - 2} more" if len(value) > 2 else "") or "-"
    return str(value)


def _steps(count: int) -> str:
    return f"{count} step{'s' * (count != 1)}"


def _use(row: dict[str, Any]) -> str:
    used = [f"treats {', '.join(row['treats'])}"] * bool(row["treats"])
    used += [f"takes over from {', '.join(row['after'])}"] * bool(row["after"])
    return ", ".join(used) or "not used: no cause leads to it"


def _named_in(healing: HealingSettings) -> list[str]:
    return list(dict.fromkeys((*healing.playbooks, *(name for name in healing.treatments.values() if name))))


def _story(rehearsal: Rehearsal) -> list[str]:
    from simulations.healing.rehearsal import MOST_BEGUN

    if not rehearsal.cause:
        return [f"{rehearsal.playbook}: not tried, no cause leads to it: name it under policy.healing.treatments"]
    lines = [f"{rehearsal.playbook} against {rehearsal.cause} ({rehearsal.fault})"]
    for event in rehearsal.events:
        whom = f"{event.subject}: " if event.subject else ""
        lines.append(f"  {event.at_s:6.0f} s  {whom}{event.what}")
    if not rehearsal.ended:
        lines.append(f"  it never began: {rehearsal.cause} was not diagnosed in this world; try another --seed")
    if rehearsal.begun > MOST_BEGUN:
        lines.append(
            f"  it began {rehearsal.begun} times: it is over while its trouble stands; let it wait for {{not: sick}}"
        )
    lines += [f"  ended      {subject}: {how}" for subject, how in rehearsal.ended.items()]
    back = f"after {rehearsal.recovered_s:.0f} s" if math.isfinite(rehearsal.recovered_s) else "not within the run"
    lines.append(f"  recovered  {back}")
    lines += [f"  wrong      {deed}" for deed in rehearsal.wrong]
    lines += [f"  invariant  {violation}" for violation in rehearsal.violations] or ["  invariants kept"]
    return lines


def _rehearsal(rehearsal: Rehearsal) -> dict[str, Any]:
    return {
        "playbook": rehearsal.playbook,
        "cause": rehearsal.cause or None,
        "fault": rehearsal.fault,
        "ok": rehearsal.fit,
        "events": [{"at_s": round(e.at_s, 3), "subject": e.subject, "what": e.what} for e in rehearsal.events],
        "ended": dict(rehearsal.ended),
        "begun": rehearsal.begun,
        "recovered": math.isfinite(rehearsal.recovered_s),
        "recovered_s": rehearsal.recovered_s if math.isfinite(rehearsal.recovered_s) else None,
        "wrong": list(rehearsal.wrong),
        "violations": list(rehearsal.violations),
    }


def _settings(file: Path | None) -> Settings:
    from controller.settings import load_settings

    return load_settings(file)


def _healing(file: Path | None) -> HealingSettings:
    return _settings(file).policy.healing
