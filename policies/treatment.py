"""How far does a playbook come at this tick: steps that are over, acts that are asked for, and what is waited for.

A run is a place in its playbook and nothing more. What was done stands in the books (cordons, acts) and shows on the
platform, and each step looks there before it asks for anything: so that a run goes on where it was, whenever and at
whatever step the controller was ended, and nothing that showed is done twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import assert_never

from policies.causes import BAD_REVISION
from policies.conditions import Subject, holds
from policies.disruption import Refusal
from policies.healing_memory import ActionMemory, RunMemory, StepMemory
from policies.ledger import ROLL_BACK
from policies.paging import page_key
from policies.playbook import (
    Action,
    Branch,
    Do,
    Duration,
    End,
    Hold,
    Page,
    Parallel,
    Playbook,
    Repeat,
    Sequential,
    Step,
    Wait,
    blocks_of,
    longest_of,
)

UNDO_S = 300.0
"""How long an act that takes another back may take to show; then the next one has its turn."""

MOST_PAGES = 20
"""How often a page is sent that is never delivered, before the playbook goes on without it."""


class _Status(Enum):
    RUNNING = auto()
    DONE = auto()
    FAILED = auto()
    RESOLVED = auto()


@dataclass(frozen=True, slots=True)
class Advance:
    """A run after its tick, and what it holds until the next."""

    run: RunMemory
    holding: frozenset[Hold] = frozenset()


def advance(playbook: Playbook, subject: Subject) -> Advance:
    """Return the run of ``subject`` one tick later; what is asked for, said and paged is in its ledger."""
    run = subject.run
    walk = _Walk(subject, dict(run.steps))
    state, why = run.state, run.why
    if state == "running" and playbook.until is not None and holds(playbook.until, subject):
        state = "closing"
    elif state == "running" and subject.at > run.deadline_at:
        state, why = "undoing", "it was not over in time"
    elif state == "running":
        status = walk.block("steps", playbook.steps)
        if status is _Status.FAILED:
            state, why = "undoing", walk.why
        elif status is not _Status.RUNNING:
            state = "closing"
    if state == "closing":
        status = walk.close(playbook)
        if status is _Status.FAILED:
            state, why = "failed", walk.why
        elif status is not _Status.RUNNING:
            state = "resolved"
    if state == "undoing" and walk.undo(playbook):
        state = "failed"
    over = state in ("resolved", "failed")
    holding: frozenset[Hold] = frozenset() if over else frozenset((*playbook.holding, *walk.holding))
    ended_at = subject.at if over else None
    after = replace(run, state=state, why=why, steps=walk.steps, ended_at=ended_at, holding=tuple(sorted(holding)))
    return Advance(after, holding)


def acts_on_platform(playbook: Playbook) -> bool:
    """Return whether any of its steps asks the platform to do something."""
    return any(isinstance(step, Do) for part in (playbook.steps, playbook.after) for _, step in paths("", part))


@dataclass(slots=True)
class _Walk:
    """One tick's way through the steps of a playbook."""

    subject: Subject
    steps: dict[str, StepMemory]
    holding: set[Hold] = field(default_factory=set)
    why: str = ""

    def block(self, prefix: str, steps: Sequence[Step]) -> _Status:
        """Take steps in order, as far as they go at this tick."""
        for place, step in enumerate(steps):
            path = f"{prefix}.{place}"
            known = self.steps.setdefault(path, StepMemory(self.subject.at))
            status = {"done": _Status.DONE, "failed": _Status.FAILED}.get(known.outcome) or self._step(path, step)
            if status is _Status.DONE:
                self._change(path, outcome="done")
                continue
            if status is _Status.FAILED:
                self._change(path, outcome="failed")
                self.why = self.why or f"{_named(step)} failed"
            elif isinstance(step, Do) and not step.holds_up:
                continue
            return status
        return _Status.DONE

    def close(self, playbook: Playbook) -> _Status:
        """Take the last steps; an act that is never permitted does not keep a run for ever."""
        status = self.block("after", playbook.after)
        if status is _Status.RUNNING:
            longest_s = self._length_s(longest_of(playbook.after))
            if self._too_late("after.0", longest_s):
                self.why = "it was not over in time"
                return _Status.FAILED
        return status

    def undo(self, playbook: Playbook) -> bool:
        """Take back what the steps did, the last first; return whether that is over."""
        for path, step in reversed(list(paths("steps", playbook.steps))):
            known = self.steps.get(path)
            if not isinstance(step, Do) or step.undo is None or known is None or known.outcome != "done":
                continue
            if known.asked_at is None and (step.do != "cordon" or self.subject.cordon is None):
                continue  # it was so before, by somebody else
            place = f"undo.{path}"
            before = self.steps.setdefault(place, StepMemory(self.subject.at))
            if before.outcome:
                continue
            back = Do(do=step.undo, deadline=Duration(UNDO_S))
            status = self._do(place, back)
            if status is _Status.RUNNING and not self._too_late(place, UNDO_S):
                return False
            self._change(place, outcome="done" if status is _Status.DONE else "failed")
        return True

    def _too_late(self, path: str, length_s: float) -> bool:
        """Return whether a step at the end has gone on for so long, and beyond the deadline of the playbook.

        While that lasts, an act may wait until it is permitted: for a kill switch, say, or its own precondition.
        """
        return self.subject.at > max(self.subject.run.deadline_at, self.steps[path].began_at + length_s)

    def _step(self, path: str, step: Step) -> _Status:
        match step:
            case Do():
                return self._do(path, step)
            case Wait():
                return self._wait(path, step)
            case Page():
                return self._page(path, step)
            case End():
                self.why = "" if step.end == "resolved" else "the playbook says so"
                return _Status.RESOLVED if step.end == "resolved" else _Status.FAILED
            case Branch():
                choice = self.steps[path].choice or ("then" if holds(step.if_, self.subject) else "else")
                self._change(path, choice=choice)
                return self.block(f"{path}.{choice}", blocks_of(step)[choice])
            case Sequential():
                return self.block(path, step.sequence)
            case Parallel():
                return self._parallel(path, step)
            case Repeat():
                return self._repeat(path, step)
            case _:
                assert_never(step)

    def _wait(self, path: str, step: Wait) -> _Status:
        if holds(step.wait_until, self.subject):
            return _Status.DONE
        waited_s = self.subject.at - self.steps[path].began_at
        if waited_s > self._length_s(step.deadline):
            self.why = f"{step.wait_until} did not come true within {step.deadline}"
            return _Status.DONE if step.late == "go on" else _Status.FAILED
        self.holding.update(step.holding)
        self._say(step.name, f"waits for {step.wait_until}, {step.deadline} at most", step.page)
        return _Status.RUNNING

    def _page(self, path: str, step: Page) -> _Status:
        known, ledger = self.steps[path], self.subject.ledger
        told = known.asked_at is not None and page_key(self.subject.page_about, self.subject.why.cause) in ledger.told
        if told or known.attempts >= MOST_PAGES:
            return _Status.DONE
        ledger.page(self.subject.page_about, self.subject.why, step.page)
        self._change(path, asked_at=self.subject.at, attempts=known.attempts + 1)
        return _Status.RUNNING

    def _parallel(self, path: str, step: Parallel) -> _Status:
        found = [self.block(f"{path}.{way}", steps) for way, steps in enumerate(step.parallel)]
        for status in (_Status.FAILED, _Status.RESOLVED, _Status.RUNNING):
            if status in found:
                return status
        return _Status.DONE

    def _repeat(self, path: str, step: Repeat) -> _Status:
        known = self.steps[path]
        if known.asked_at is not None:  # the last attempt failed then
            if self.subject.at - known.asked_at < step.back_off_s * 2.0 ** (known.attempts - 1):
                return _Status.RUNNING
            self.steps = {at: each for at, each in self.steps.items() if not at.startswith(f"{path}.")}
            self._change(path, asked_at=None)
        status = self.block(path, step.repeat)
        if status is not _Status.FAILED:
            return status
        self._change(path, asked_at=self.subject.at, attempts=self.steps[path].attempts + 1)
        if self.steps[path].attempts >= step.attempts:
            return _Status.FAILED
        self.why = ""
        return _Status.RUNNING

    # Acts

    def _do(self, path: str, step: Do) -> _Status:
        if self._shows(step.do) and (step.until is None or holds(step.until, self.subject)):
            return _Status.DONE
        known, at = self.steps[path], self.subject.at
        deadline_s = self._length_s(step.deadline)
        if step.do in _ON_RECORD:
            known = self._on_the_books(path, step.do)
            if known.asked_at is None and step.do == ROLL_BACK and self._gone(step.do):
                return _Status.DONE  # somebody else took it back
            act = self._on_record(step.do, known)
            if act is not None and act.open:
                self.subject.ledger.note(f"{act.kind} under way", self.subject.why, "not seen to have worked yet")
                return _Status.RUNNING
            over = known.asked_at is not None and at - known.asked_at > deadline_s
            worked = act.verified if act is not None else known.asked_at is not None and not over
            if worked and (step.until is None or holds(step.until, self.subject)):
                return _Status.DONE
            late = over or (act is not None and not act.verified)
            if known.asked_at is not None and not late:
                return _Status.RUNNING
        else:
            late = known.asked_at is not None and at - known.asked_at > deadline_s
        if late and step.holds_up and (self._gone(step.do) or known.attempts >= step.attempts):
            self.why = f"{step.do} did not work within {step.deadline}"
            return _Status.FAILED
        if late and known.asked_at is not None:
            if at - known.asked_at - deadline_s < step.back_off_s * 2.0 ** (known.attempts - 1):
                return _Status.RUNNING
            known = self._change(path, asked_at=None)
        return self._ask(path, step, known, deadline_s)

    def _on_the_books(self, path: str, action: Action) -> StepMemory:
        """Return the step as the books tell it: they know of acts that the run does not, and the other way round.

        Where another act was held, the run forgets that it asked for this one. What it asked for and that is not on
        record was never done; unless the books do not go back so far: then it worked, or was late.
        """
        known, ledger = self.steps[path], self.subject.ledger
        about = (action, self.subject.run.pool, self._target(action))
        acts = [
            act
            for act in ledger.actions
            if (act.kind, act.pool, act.target) == about and (act.open or act.started_at >= known.began_at)
        ]
        if known.asked_at is None:
            new = len(acts) > known.attempts
            return self._change(path, asked_at=acts[-1].started_at, attempts=known.attempts + 1) if new else known
        kept = self.subject.at - known.asked_at <= ledger.settings.attempt_window_s
        if kept and self._on_record(action, known) is None:
            return self._change(path, asked_at=None, attempts=max(0, known.attempts - 1))
        return known

    def _gone(self, action: Action) -> bool:
        """Return whether there is none any more to whom it could be done."""
        if action == ROLL_BACK:
            return self.subject.pool.revision != self.subject.run.life
        return action == "restart" and self.subject.replica is None

    def _why_no_roll_back(self) -> Refusal | None:
        """Only a revision that is believed to fail is left, whatever a playbook for another cause says (I9)."""
        if self._gone("roll back"):
            return Refusal("gone", "the pool is at another revision by now")
        if self.subject.run.cause != BAD_REVISION.name:
            return Refusal("revision not blamed", "nothing shows that its revision is worse than others", final=True)
        return None

    def _ask(self, path: str, step: Do, known: StepMemory, deadline_s: float) -> _Status:
        """Ask for the act, or once more for one that may be asked for twice."""
        if known.asked_at is None and step.when is not None and not holds(step.when, self.subject):
            self._say(step.name or step.do, f"waits for {step.when}", step.page)
            return _Status.RUNNING
        refusal = self._asked(step.do, deadline_s)
        if refusal is None:
            if known.asked_at is None:
                self._change(path, asked_at=self.subject.at, attempts=known.attempts + 1)
        elif refusal.final:
            subject = self.subject
            subject.ledger.page(str(subject.pool.key), subject.why, refusal.detail, refusal.rule)
        else:
            self.subject.ledger.note(refusal.rule, self.subject.why, refusal.detail)
        return _Status.RUNNING

    def _asked(self, action: Action, deadline_s: float) -> Refusal | None:
        subject, ledger = self.subject, self.subject.ledger
        pool, replica, why = subject.pool, subject.replica, subject.why
        match action:
            case "pause":
                return ledger.pause(pool, why)
            case "resume":
                return ledger.resume(pool, why)
            case "roll back":
                return self._why_no_roll_back() or ledger.roll_back(pool, why, deadline_s)
        if replica is None:
            return Refusal("gone", "it is not there")
        match action:
            case "cordon":
                return ledger.cordon(pool, replica, why)
            case "uncordon":
                ledger.uncordon(pool, replica, "recovered", "it makes progress again")
                return None
            case "restart":
                return ledger.restart(pool, replica, why, deadline_s, subject.run.began_at)
            case "avoid node":
                return ledger.avoid_node(replica, why)
            case _:
                assert_never(action)

    def _shows(self, action: Action) -> bool:
        """Return whether the platform shows the effect of an act, or that there is nothing left to do it to."""
        subject = self.subject
        replica, pool = subject.replica, subject.pool
        match action:
            case "pause":
                return pool.paused or pool.revision != subject.run.life
            case "resume":
                return not pool.paused
            case "roll back":
                return False  # the books say, once all of it serves
            case "cordon":
                return replica is None or replica.cordoned
            case "uncordon":
                return replica is None or not replica.cordoned or subject.cordon is None  # somebody else's
            case "restart":
                return False
            case "avoid node":
                node = subject.ledger.fleet.nodes.get(replica.node) if replica is not None else None
                return replica is None or (node is not None and node.avoided)
            case _:
                assert_never(action)

    def _on_record(self, action: Action, known: StepMemory) -> ActionMemory | None:
        about = (action, self.subject.run.pool, self._target(action))
        for act in reversed(self.subject.ledger.actions):
            if (act.kind, act.pool, act.target) == about and act.started_at == known.asked_at:
                return act
        return None

    def _target(self, action: Action) -> str:
        return self.subject.run.life if action == ROLL_BACK else self.subject.run.subject

    # Words and memory

    def _say(self, name: str, detail: str, page: str) -> None:
        subject = self.subject
        if page:
            subject.ledger.page(subject.page_about, subject.why, page, name or "needs a human")
        else:
            subject.ledger.note(name or "waiting", subject.why, detail)

    def _change(self, path: str, **changes: object) -> StepMemory:
        self.steps[path] = replace(self.steps[path], **changes)  # type: ignore[arg-type]  # fields of StepMemory
        return self.steps[path]

    def _length_s(self, duration: Duration) -> float:
        return duration.over(self.subject.ledger.lead_times[str(self.subject.pool.key)].p90_s)


_ON_RECORD: tuple[Action, ...] = ("restart", "roll back")
"""Acts that are not asked for twice: the books say what became of each."""


def paths(prefix: str, steps: Sequence[Step]) -> Iterator[tuple[str, Step]]:
    """Yield every step with the path under which a run remembers it; ``prefix`` is ``steps`` or ``after``."""
    for place, step in enumerate(steps):
        path = f"{prefix}.{place}"
        yield path, step
        for name, inner in blocks_of(step).items():
            yield from paths(f"{path}.{name}" if name else path, inner)


def _named(step: Step) -> str:
    return step.name or (step.do if isinstance(step, Do) else type(step).__name__.lower())
