"""What may a playbook ask of its subject? The vocabulary of conditions, and how they are written.

A condition is the name of a fact, ``{fact: number}`` for one that is a quantity (true from that number on),
``{not: condition}``, ``{all: [conditions]}`` or ``{any: [conditions]}``. What a fact looks at is in ``conditions``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from policies.disagreement import Disagreement

Scope: TypeAlias = Literal["replica", "pool"]

Key: TypeAlias = tuple[str | int, ...]

MOST_DEPTH = 8
MOST = 1e9
"""Of any quantity: thirty years, in seconds."""
_JOINED = ("all", "any")


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that is so or not (``unit`` empty), or that is so from a quantity of ``unit`` on."""

    scopes: tuple[Scope, ...]
    meaning: str
    unit: str = ""


_REPLICA: tuple[Scope, ...] = ("replica",)
_POOL: tuple[Scope, ...] = ("pool",)
_BOTH: tuple[Scope, ...] = ("replica", "pool")

FACTS: Mapping[str, Fact] = {
    "sick": Fact(_BOTH, "the diagnosis that the run began with stands"),
    "sick_s": Fact(_BOTH, "since the first evidence of it, as long as the diagnosis stands", "seconds"),
    "running_s": Fact(_BOTH, "since the playbook began", "seconds"),
    "confirmed": Fact(_BOTH, "another witness than the engine's own metrics speaks for the diagnosis"),
    "in_doubt": Fact(_REPLICA, "it was cordoned as hung, and something may have ended inside since"),
    "recovered": Fact(_REPLICA, "it is READY, and a new life, or works again as it did not when it was cordoned"),
    "cordoned": Fact(_REPLICA, "the platform shows it out of traffic"),
    "ready": Fact(_REPLICA, "it is READY"),
    "failed_lead_times": Fact(
        _REPLICA,
        "it exited, and that long ago or, where starts of others fail too, that long after the platform's longest "
        "back-off, in p90 lead times",
        "lead times",
    ),
    "empty": Fact(_REPLICA, "nothing is inside, by the gateway's word or, without one, by its own"),
    "silent_s": Fact(
        _REPLICA, "no sign of life, since the evidence or, where nothing is left inside, since its cordon", "seconds"
    ),
    "out_of_traffic_s": Fact(_REPLICA, "since it was taken out of traffic", "seconds"),
    "compared": Fact(_REPLICA, "a peer with the same requests shows that the errors it is diagnosed with are its own"),
    "errors_seen": Fact(_REPLICA, "the gateway itself saw it fail requests"),
    "placed": Fact(_REPLICA, "it has its GPUs"),
    "node_suspect": Fact(
        _REPLICA, "its node is not in order, a GPU of it is at fault, or another replica was restarted there"
    ),
    "gpu_fault": Fact(_REPLICA, "an Xid error on its node, of late, asks for more than a restart of the engine"),
    "nodes_may_be_avoided": Fact(_REPLICA, "the settings allow to keep replicas off a node"),
    "lead_time_known": Fact(_BOTH, "enough starts of its pool were seen to know how long one takes"),
    "good_revision": Fact(_POOL, "a revision is on record as good, can still be restored, and is not the present one"),
    "rolled_back": Fact(_POOL, "the pool is at its good revision"),
    "rolled_back_before": Fact(_POOL, "the present revision was rolled back once already"),
    "paused": Fact(_POOL, "its rollout goes no further"),
    "sound": Fact(_POOL, "all that it was asked for serves"),
    "room_elsewhere": Fact(_POOL, "other pools of the stage can take what it carries"),
    "out_of_use": Fact(_POOL, "it gets no traffic"),
    "burning": Fact(_POOL, "its model's error budget is being spent too fast over a long and a short window"),
    "surging": Fact(_POOL, "far more of its model is offered than was forecast"),
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold, as it is written: see the module. Raises ``Disagreement`` where it means nothing."""

    written: Any

    def __post_init__(self) -> None:
        _check(self.written, (), 0)

    def facts(self) -> Iterator[tuple[Key, str]]:
        """Yield every fact that it asks for, with its key in what is written."""
        yield from _facts_in(self.written, ())

    def __str__(self) -> str:
        return _told(self.written)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Read it from text or a mapping, write it as it was read."""
        text = core_schema.union_schema([core_schema.str_schema(), core_schema.dict_schema()])
        return core_schema.no_info_before_validator_function(
            lambda written: written if isinstance(written, Condition) else cls(written),
            core_schema.is_instance_schema(cls),
            serialization=core_schema.plain_serializer_function_ser_schema(lambda condition: condition.written),
            json_schema_input_schema=text,
        )


def _check(written: object, at: Key, depth: int) -> None:
    if depth > MOST_DEPTH:
        raise Disagreement(at, f"conditions are nested more than {MOST_DEPTH} deep")
    if isinstance(written, str):
        _check_fact(written, at, numeric=False)
        return
    if not isinstance(written, dict) or len(written) != 1:
        what = f"{_shortly(written)} is no condition"
        raise Disagreement(at, what, "write a fact, {fact: number}, {not: ...}, {all: [...]} or {any: [...]}")
    ((word, inner),) = written.items()
    if word == "not":
        _check(inner, (*at, word), depth + 1)
    elif word in _JOINED:
        if not isinstance(inner, list) or not inner:
            raise Disagreement((*at, word), f"{word} takes a list of conditions, not {_shortly(inner)}")
        for place, each in enumerate(inner):
            _check(each, (*at, word, place), depth + 1)
    else:
        _check_fact(word, (*at, word), numeric=True)
        if isinstance(inner, bool) or not isinstance(inner, int | float) or not 0 <= inner <= MOST:
            what = f"{word} takes a number of {FACTS[word].unit}, not {_shortly(inner)}"
            raise Disagreement((*at, word), what, f"write 0 to {MOST:g}")


def _check_fact(name: str, at: Key, *, numeric: bool) -> None:
    if name not in FACTS:
        near = difflib.get_close_matches(name, FACTS, n=1, cutoff=0.6)
        hint = f"did you mean {near[0]}? " if near else ""
        raise Disagreement(at, f"there is no fact {_shortly(name)}", f"{hint}known: {', '.join(FACTS)}")
    if numeric and not FACTS[name].unit:
        raise Disagreement(at, f"{name} takes no number", f"write {name} alone")
    if not numeric and FACTS[name].unit:
        raise Disagreement(at, f"{name} needs a number of {FACTS[name].unit}", f"write {{{name}: 120}}")


def _shortly(written: object) -> str:
    return repr(written)[:80]


def _facts_in(written: object, at: Key) -> Iterator[tuple[Key, str]]:
    if isinstance(written, str):
        yield at, written
    elif isinstance(written, dict):
        ((word, inner),) = written.items()
        if word == "not":
            yield from _facts_in(inner, (*at, word))
        elif word in _JOINED:
            for place, each in enumerate(inner):
                yield from _facts_in(each, (*at, word, place))
        else:
            yield (*at, word), word


def _told(written: Any) -> str:
    """Return a condition as people say it.

    >>> str(Condition({"any": ["recovered", {"not": "sick"}, {"silent_s": 120}]}))
    'recovered or not sick or silent_s >= 120'
    """
    if isinstance(written, str):
        return written
    ((word, inner),) = written.items()
    if word == "not":
        return f"not {_told(inner)}" if isinstance(inner, str) else f"not ({_told(inner)})"
    if word in _JOINED:
        parts = [_told(each) for each in inner]
        if word == "all":
            parts = [f"({part})" if " or " in part else part for part in parts]
        return (" and " if word == "all" else " or ").join(parts)
    return f"{word} >= {inner:g}"
