"""What came to nothing, or is not what clients want, and so is not to be remembered as done, or learned?"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import get_args

from policies.canaries import unasked
from policies.fleet import PoolKey
from policies.healing_memory import ActionMemory, RunMemory
from policies.ledger import ROLL_BACK
from policies.memory import PolicyMemory
from policies.paging import page_key
from policies.playbook import Action


def not_to_be_learned(memory: PolicyMemory) -> frozenset[str]:
    """Return the models whose load is not what clients want, so that no forecast should learn it."""
    return frozenset(PoolKey.parse(run.pool).model for run in memory.runs.values() if "learning" in run.holding)


def unlearn(
    memory: PolicyMemory, held: Collection[tuple[str, str]], not_paged: Collection[tuple[str, str]]
) -> PolicyMemory:
    """Return ``memory`` without what a mode, the kill switch or staleness kept from being done.

    Only what was *held* surely did not happen. A write that failed may have taken effect: it stays on record, counts
    as an attempt, and a cordon that came to nothing is not seen in the next observation. A step of a playbook whose act
    was held has not been taken; that another one asks twice does no harm, for it looks at the books before.

    Args:
        memory: Of the decision.
        held: ``(act, subject)`` that were not attempted.
        not_paged: ``(subject, cause)`` of pages that reached nobody.
    """
    if not held and not not_paged:
        return memory
    undone = {page_key(subject, cause) for subject, cause in not_paged}
    asked = {subject for act, subject in held if act in _OF_PLAYBOOKS}
    of_nodes = any(act == "avoid" for act, _ in held)  # whose subject is a node, which a run does not name
    return replace(
        memory,
        actions=tuple(a for a in memory.actions if not (a.open and (a.kind, _subject_of(a)) in held)),
        cordons={name: cordon for name, cordon in memory.cordons.items() if ("cordon", name) not in held},
        runs={
            name: _not_asked(run, memory.decided_at) if of_nodes or name in asked else run
            for name, run in memory.runs.items()
        },
        pages={key: at for key, at in memory.pages.items() if key not in undone},
        canaries=unasked(memory.canaries, [name for act, name in held if act == "canary"], memory.decided_at),
    )


_OF_PLAYBOOKS = frozenset(get_args(Action)) - {"avoid node"}
"""What results call the acts of playbooks; the one that is about a node is called ``avoid``."""


def _not_asked(run: RunMemory, decided_at: float | None) -> RunMemory:
    """Return the run as if it had asked for nothing at the last decision."""
    steps = {
        path: replace(step, asked_at=None, attempts=max(0, step.attempts - 1))
        if step.asked_at is not None and step.asked_at == decided_at
        else step
        for path, step in run.steps.items()
    }
    return replace(run, steps=steps)


def _subject_of(action: ActionMemory) -> str:
    """Return what the result of an act calls its subject."""
    return action.pool if action.kind == ROLL_BACK else f"{action.pool}/{action.target}"
