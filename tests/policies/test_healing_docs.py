"""Does docs/healing.md name every cause, fact, act, hold and step that there is, with what the code says of it?"""

from __future__ import annotations

import re
from pathlib import Path
from textwrap import dedent
from typing import get_args

import yaml

from policies.causes import CAUSES
from policies.facts import FACTS
from policies.healing_settings import HealingSettings
from policies.playbook import _KINDS, MOST_DEPTH, MOST_STEPS, SCOPE_OF, Hold

DOC = (Path(__file__).resolve().parents[2] / "docs" / "healing.md").read_text(encoding="utf-8")


def table(first: str) -> list[list[str]]:
    """Return the rows of the table whose header begins with ``first``."""
    lines = DOC[DOC.index(f"| {first} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_every_cause_is_there_with_its_playbook() -> None:
    shipped = HealingSettings()
    wanted = [
        [f"`{c.name}`", c.code, c.title, c.scope, f"`{shipped.playbook_for(c.name)}`" if c.playbook else "-"]
        for c in CAUSES.values()
    ]
    assert table("cause") == wanted


def test_every_fact_is_there_with_its_meaning() -> None:
    wanted = [
        [f"`{name}`", " or ".join(fact.scopes), fact.meaning + (f", in {fact.unit}" if fact.unit else "")]
        for name, fact in FACTS.items()
    ]
    assert table("fact") == wanted


def test_every_act_and_hold_is_there() -> None:
    assert [row[:2] for row in table("act")] == [[f"`{act}`", scope] for act, scope in SCOPE_OF.items()]
    assert [row[0] for row in table("hold")] == [f"`{hold}`" for hold in get_args(Hold)]


def test_every_kind_of_step_and_bound_is_there() -> None:
    words = {word for row in table("step") for word in re.findall(r"`(\w+)`", row[0])}
    assert {*_KINDS.values(), "page"} <= words
    assert f"at most {MOST_STEPS} steps" in DOC
    assert MOST_DEPTH == 6
    assert "six deep" in DOC


def test_the_playbook_that_it_shows_can_be_used() -> None:
    block = DOC[DOC.index("    policy:\n") :].split("\n\nA step has")[0]
    settings = HealingSettings.model_validate(yaml.safe_load(dedent(block))["policy"]["healing"])
    assert settings.playbook_for("hang") == "my-restart"


def test_the_figures_that_it_names_are_the_defaults() -> None:
    settings = HealingSettings()
    assert (settings.disruption_budget, settings.fleet_disruption_budget) == (1, 3)
    assert round(1 / settings.breaker_ratio) == 3
    assert not settings.may_avoid_nodes
    for name in re.findall(r"`(\w+_\w+)`", DOC.split("## The gate")[1].split("## Modes")[0]):
        assert name in HealingSettings.model_fields
