"""What is a playbook: a remedy as data, bounded in every step, and refused where it is not.

Steps are carried out by ``treatment``; what each one does to the world is still subject to budgets, floors, breaker
and modes, which no playbook can widen (``ledger``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    Tag,
    model_validator,
)
from pydantic_core import CoreSchema, core_schema

from policies.disagreement import Disagreement
from policies.facts import FACTS, Condition, Key, Scope

MOST_STEPS = 64
MOST_DEPTH = 6
LONGEST_S = 7 * 86400.0
MOST_LEAD_TIMES = 100.0

Action: TypeAlias = Literal["cordon", "uncordon", "restart", "avoid node", "pause", "resume", "roll back"]
Hold: TypeAlias = Literal["growth", "shrinking", "learning", "traffic", "one more"]
"""What a run may keep from happening, or ask for, while it lasts.

growth      the pool is given no further replicas: none for a rollout that fails
shrinking   the pool gives up no replica
learning    forecasts do not learn the load of its model: what is offered is not what clients want
traffic     the pool is given up for now: others of its stage take its share, as far as they can
one more    one replica more than the load needs
"""

SCOPE_OF: Mapping[Action, Scope] = {
    "cordon": "replica",
    "uncordon": "replica",
    "restart": "replica",
    "avoid node": "replica",
    "pause": "pool",
    "resume": "pool",
    "roll back": "pool",
}
UNDOES: Mapping[Action, tuple[Action, ...]] = {"cordon": ("uncordon",), "pause": ("resume",)}
"""What may be undone, and by what."""


@dataclass(frozen=True, slots=True)
class Duration:
    """Seconds, lead times of the pool (p90), or both: ``90``, ``90 s``, ``2 lead times``, ``60 s + 2 lead times``."""

    seconds: float = 0.0
    lead_times: float = 0.0

    def over(self, lead_time_s: float) -> float:
        """Return it in seconds, given the lead time."""
        return self.seconds + self.lead_times * lead_time_s

    def __str__(self) -> str:
        parts = [f"{self.seconds:.15g} s"] * (self.seconds > 0)
        parts += [f"{self.lead_times:.15g} lead times"] * (self.lead_times > 0)
        return " + ".join(parts)

    @classmethod
    def parse(cls, written: object) -> Duration:
        """Return what is written; raises ValueError."""
        if isinstance(written, Duration):
            return written
        if isinstance(written, int | float) and not isinstance(written, bool):
            found = cls(float(min(written, 10 * LONGEST_S)))
        elif isinstance(written, str) and (match := _DURATION.fullmatch(written.strip())):
            found = cls(float(match["s"] or 0.0), float(match["lead"] or match["alone"] or 0.0))
        else:
            raise ValueError(f"{written!r} is no duration: write 90, 90 s, 2 lead times or 60 s + 2 lead times")
        if not (found.seconds > 0 or found.lead_times > 0):
            raise ValueError("a duration must be more than nothing")
        if found.seconds > LONGEST_S or found.lead_times > MOST_LEAD_TIMES:
            raise ValueError(f"a duration is at most {LONGEST_S:g} s + {MOST_LEAD_TIMES:g} lead times")
        return found

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read it from a number or text, write it as text."""
        written = core_schema.union_schema([core_schema.float_schema(), core_schema.str_schema()])
        return core_schema.no_info_before_validator_function(
            cls.parse,
            core_schema.is_instance_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(str),
            json_schema_input_schema=written,
        )


_NUMBER = r"\d{1,9}(?:\.\d{1,6})?"
_LEAD = r"\s*lead times?"
_DURATION = re.compile(
    rf"(?P<s>{_NUMBER})\s*s(?:econds)?(?:\s*\+\s*(?P<lead>{_NUMBER}){_LEAD})?|(?P<alone>{_NUMBER}){_LEAD}", re.ASCII
)


def _one_line(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must be one line without control characters: it is printed, and sent to humans")
    return text


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
Line: TypeAlias = Annotated[str, AfterValidator(_one_line)]
"""Text for humans."""


class _Step(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True)

    name: Line = Field("", max_length=80, description="What the step is called in reasons while it waits.")


class Do(_Step):
    """One act. It is done once its own effect shows, and ``until`` holds where that says more."""

    do: Action = Field(description=f"What is done: {', '.join(SCOPE_OF)}.")
    when: Condition | None = Field(None, description="Precondition: it is not asked for before this holds.")
    until: Condition | None = Field(None, description="Postcondition, beside the effect of the act itself.")
    deadline: Duration = Field(
        description="How long after it was asked for the effect must show, such as 90 s or 2 lead times."
    )
    attempts: int = Field(1, ge=1, le=10, description="How often it is asked for, each time with a deadline.")
    back_off_s: float = Field(60.0, ge=0, le=86400, description="Seconds to the next attempt; doubles each time.")
    undo: Action | None = Field(None, description="What takes it back if the playbook fails after it.")
    holds_up: bool = Field(
        True, description="Whether later steps wait for its effect; if not, it is asked for beside them until it shows."
    )
    page: Line = Field("", max_length=300, description="What a human is told while the precondition does not hold.")


class Wait(_Step):
    """Nothing is done until something is so."""

    wait_until: Condition = Field(description="What is waited for.")
    deadline: Duration = Field(description="How long it is waited for at most, such as 90 s or 2 lead times.")
    late: Literal["fail", "go on"] = Field("fail", description="What becomes of the playbook at the deadline.")
    holding: tuple[Hold, ...] = Field((), description="What is held meanwhile.")
    page: Line = Field("", max_length=300, description="What a human is told meanwhile.")


class Page(_Step):
    """A human is told, and the playbook goes on."""

    page: Line = Field(min_length=1, max_length=300, description="What a human is told.")


class End(_Step):
    """The playbook is over here."""

    end: Literal["resolved", "failed"] = Field(description="How it ends.")


class Branch(_Step):
    """One of two ways; chosen once, when it is reached."""

    if_: Condition = Field(alias="if", description="Which way.")
    then: tuple[Step, ...] = Field(description="Steps where it holds.")
    else_: tuple[Step, ...] = Field((), alias="else", description="Steps where it does not.")


class Sequential(_Step):
    """Steps one after the other."""

    sequence: tuple[Step, ...] = Field(min_length=1, description="The steps.")


class Parallel(_Step):
    """Several ways at once; done when all are, failed when one is."""

    parallel: tuple[tuple[Step, ...], ...] = Field(min_length=2, max_length=8, description="The ways, each a list.")


class Repeat(_Step):
    """Steps that are begun again when they fail."""

    repeat: tuple[Step, ...] = Field(min_length=1, description="The steps.")
    attempts: int = Field(ge=1, le=10, description="How often at most.")
    back_off_s: float = Field(60.0, ge=0, le=86400, description="Seconds to the next attempt; doubles each time.")


_KINDS: Mapping[str, str] = {
    "do": "do", "wait_until": "wait_until", "if": "if", "if_": "if", "sequence": "sequence", "parallel": "parallel",
    "repeat": "repeat", "end": "end",
}  # fmt: skip


def _kind(step: object) -> str | None:
    """Return which kind of step this is, by the one word that only this kind has."""
    words = step if isinstance(step, dict) else type(step).model_fields if isinstance(step, _Step) else ()
    found = {_KINDS[word] for word in words if word in _KINDS}
    if len(found) == 1:
        return found.pop()
    return "page" if not found and "page" in words else None


Step: TypeAlias = Annotated[
    Annotated[Do, Tag("do")]
    | Annotated[Wait, Tag("wait_until")]
    | Annotated[Branch, Tag("if")]
    | Annotated[Sequential, Tag("sequence")]
    | Annotated[Parallel, Tag("parallel")]
    | Annotated[Repeat, Tag("repeat")]
    | Annotated[Page, Tag("page")]
    | Annotated[End, Tag("end")],
    Discriminator(
        _kind,
        custom_error_type="step",
        custom_error_message="a step has exactly one of: do, wait_until, if, sequence, parallel, repeat, page, end",
    ),
]

for _model in (Branch, Sequential, Parallel, Repeat):
    _model.model_rebuild()


class Playbook(BaseModel):
    """What is done about one kind of trouble, from the first step to the last resort."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: Line = Field(min_length=1, max_length=120, description="What it does, in a few words.")
    scope: Scope = Field(description="Whether its subject is a replica or a pool.")
    deadline: Duration = Field(description="How long it may take in all, such as 600 s + 4 lead times.")
    until: Condition | None = Field(
        None, description="As soon as this holds, the steps are left and `after` is done: the trouble is over."
    )
    holding: tuple[Hold, ...] = Field((), description="What is held while it runs.")
    steps: tuple[Step, ...] = Field(min_length=1, description="What is done, in order.")
    after: tuple[Step, ...] = Field((), description="What is done at the end of a playbook that did not fail.")
    escalates_to: str | None = Field(None, description="Playbook that takes over if this one fails; else a human.")

    @model_validator(mode="after")
    def _bounded(self) -> Playbook:
        steps = [*walk(self.steps, ("steps",)), *walk(self.after, ("after",))]
        if len(steps) > MOST_STEPS:
            raise Disagreement(steps[MOST_STEPS].key, f"{len(steps)} steps are too many", f"at most {MOST_STEPS}")
        for placed in steps:
            if placed.depth > MOST_DEPTH:
                raise Disagreement(placed.key, f"steps are nested {placed.depth} deep", f"at most {MOST_DEPTH} deep")
        if self.until is not None:
            _check_condition(self.until, ("until",), self.scope)
        for placed in steps:
            _check_step(placed, self.scope)
        longest = self.longest
        for had, needed, unit in (
            (self.deadline.seconds, longest.seconds, "s"),
            (self.deadline.lead_times, longest.lead_times, "lead times"),
        ):
            if needed > had:
                what = f"impossible: its steps may take {needed:.15g} {unit}, and the playbook has {had:.15g}"
                raise Disagreement(("deadline",), what, _roomier(longest))
        return self

    @property
    def longest(self) -> Duration:
        """How long its steps may take in the worst case, without the time for which acts are not permitted."""
        return longest_of(self.steps)


def _roomier(longest: Duration) -> str:
    """Return what to do about steps that may take that long."""
    if longest.seconds > LONGEST_S or longest.lead_times > MOST_LEAD_TIMES:
        most = Duration(LONGEST_S, MOST_LEAD_TIMES)
        return f"shorten its steps: no playbook may take longer than {most}, and these may take {longest}"
    return f"write at least {longest}, or shorten its steps"


@dataclass(frozen=True, slots=True)
class Placed:
    """A step, its key in its playbook as written, and how deep it is nested, from 1 on."""

    key: Key
    depth: int
    step: Step


def walk(steps: Sequence[Step], at: Key, depth: int = 1) -> Iterator[Placed]:
    """Yield every step of the list that is written at ``at``, those inside others included."""
    for place, step in enumerate(steps):
        key = (*at, place)
        yield Placed(key, depth, step)
        for name, inner in blocks_of(step).items():
            yield from walk(inner, (*key, *_WRITTEN_IN[type(step)], *_part(name)), depth + 1)


_WRITTEN_IN: Mapping[type, Key] = {Branch: (), Sequential: ("sequence",), Repeat: ("repeat",), Parallel: ("parallel",)}


def _part(name: str) -> Key:
    return () if not name else (int(name),) if name.isdigit() else (name,)


def blocks_of(step: Step) -> Mapping[str, tuple[Step, ...]]:
    """Return the lists of steps that are inside a step, by what they are called in a path."""
    match step:
        case Branch():
            return {"then": step.then, "else": step.else_}
        case Sequential():
            return {"": step.sequence}
        case Repeat():
            return {"": step.repeat}
        case Parallel():
            return {str(place): way for place, way in enumerate(step.parallel)}
    return {}


def escalation_cycle(playbooks: Mapping[str, Playbook]) -> tuple[str, ...]:
    """Return playbooks that escalate to each other in a circle, the first one at both ends; empty where none do."""
    for first in playbooks:
        seen = [first]
        while (after := playbooks[seen[-1]].escalates_to) is not None and after in playbooks:
            if after in seen:
                return (*seen[seen.index(after) :], after)
            seen.append(after)
    return ()


def _check_step(placed: Placed, scope: Scope) -> None:
    step = placed.step
    for word, condition in conditions_of(step).items():
        _check_condition(condition, (*placed.key, word), scope)
    if not isinstance(step, Do):
        return
    for word, action in (("do", step.do), ("undo", step.undo)):
        if action is not None and SCOPE_OF[action] != scope:
            what = f"{action} is done to a {SCOPE_OF[action]}, and the playbook is about a {scope}"
            possible = ", ".join(act for act, of in SCOPE_OF.items() if of == scope)
            raise Disagreement((*placed.key, word), what, f"of a {scope}: {possible}")
    if step.undo is not None and step.undo not in UNDOES.get(step.do, ()):
        back = ", ".join(UNDOES.get(step.do, ()))
        remedy = f"write undo: {back}" if back else f"leave it out: nothing takes {step.do} back"
        raise Disagreement((*placed.key, "undo"), f"{step.undo} does not undo {step.do}", remedy)


def _check_condition(condition: Condition, at: Key, scope: Scope) -> None:
    for key, fact in condition.facts():
        if scope not in FACTS[fact].scopes:
            possible = ", ".join(name for name, known in FACTS.items() if scope in known.scopes)
            raise Disagreement((*at, *key), f"{fact} is nothing that a {scope} has", f"of a {scope}: {possible}")


def conditions_of(step: Step) -> Mapping[str, Condition]:
    """Return its conditions, by the word that they are written under."""
    match step:
        case Do():
            return {word: c for word, c in (("when", step.when), ("until", step.until)) if c is not None}
        case Wait():
            return {"wait_until": step.wait_until}
        case Branch():
            return {"if": step.if_}
    return {}


def longest_of(steps: Sequence[Step]) -> Duration:
    """Return how long steps may take one after the other, without the time for which acts are not permitted."""
    each = [_longest(step) for step in steps]
    return Duration(sum(d.seconds for d in each), sum(d.lead_times for d in each))


def _longest(step: Step) -> Duration:
    match step:
        case Do():
            waits_s = step.back_off_s * (2.0 ** (step.attempts - 1) - 1.0)
            return Duration(step.attempts * step.deadline.seconds + waits_s, step.attempts * step.deadline.lead_times)
        case Wait():
            return step.deadline
        case Repeat():
            once, waits_s = longest_of(step.repeat), step.back_off_s * (2.0 ** (step.attempts - 1) - 1.0)
            return Duration(step.attempts * once.seconds + waits_s, step.attempts * once.lead_times)
    inside = [longest_of(block) for block in blocks_of(step).values()]
    return Duration(max((d.seconds for d in inside), default=0.0), max((d.lead_times for d in inside), default=0.0))
