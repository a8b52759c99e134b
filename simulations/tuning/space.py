"""Which settings are searched, between which values, and what are settings with other values?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ValidationError

from controller.errors import BadInput
from controller.yaml_source import MAX_BYTES, Value, read_yaml
from policies.tunable import Tunable
from simulations.case import SimulationSettings
from simulations.peers.catalogue import CATALOGUE, part_of
from simulations.scenario import value_of

Values: TypeAlias = Mapping[str, float | int | str | bool]
"""Settings by dotted key, such as ``policy.scaling.headroom_ratio``."""

SHOWN_DIGITS = 3
"""Significant digits of a number that is tried: nobody keeps, or can tell apart, a headroom of 0.2837419."""

_OURS = ("policy", "forecast")
_YARDSTICK = ("objective", "objectives", "pools")
_MOST_KNOBS = 32
_SAMPLES = 8
_LOG_FROM_RATIO = 10
"""Between the ends of a grid: what spans a power of ten is felt in multiples."""


@dataclass(frozen=True, slots=True)
class Knob:
    """A setting that is searched: between ``low`` and ``high``, or one of ``choices`` where there are some.

    Attributes:
        log: Whether the range is searched in logs.
        whole: Whether only whole numbers are tried.
        why: What the range stands for; empty where the user gave it.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[float | int | str | bool, ...] = ()
    why: str = ""

    @property
    def samples(self) -> tuple[float | int | str | bool, ...]:
        """All choices, or values from end to end: where these are possible, so are those between."""
        steps = [step / (_SAMPLES - 1) for step in range(_SAMPLES)]
        return self.choices or tuple(self.shown(self.low + step * (self.high - self.low)) for step in steps)

    def shown(self, value: float) -> float | int:
        """Return ``value`` as it is tried: whole, or with few digits, and never outside the range."""
        if self.whole:
            return round(value)
        return min(max(float(f"{value:.{SHOWN_DIGITS}g}"), self.low), self.high)

    def holds(self, value: object) -> bool:
        """Return whether ``value`` is one that may be tried."""
        if self.choices:
            return value in self.choices
        return isinstance(value, float | int) and self.low <= value <= self.high

    def __str__(self) -> str:
        if self.choices:
            return f"{self.key} = {', '.join(str(choice) for choice in self.choices)}"
        return f"{self.key} = {self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


def space_of(
    policy: str, settings: SimulationSettings, space: Path | None, named: Sequence[str], only_named: bool
) -> tuple[Knob, ...]:
    """Return what is searched: declared ranges, then those of the file ``space``, then ``named``; the last word counts.

    Args:
        policy: Whose settings.
        settings: Those that the search starts from.
        space: YAML file of ``key: low:high[:log]`` or ``key: [choices]``.
        named: ``key=low:high[:log]`` or ``key=a,b,c`` of the command line.
        only_named: Whether declared ranges that neither of the two names are left out.

    Raises:
        BadInput: If a key is unknown or not the policy's, or a value in a range of the user's is impossible.
    """
    said = {knob.key: knob for knob in (*_of_file(space), *(_of_text(text) for text in named))}
    knobs = ({} if only_named else {knob.key: knob for knob in declared(policy, settings)}) | said
    tick, step = (knobs.get(key) for key in ("policy.tick_s", "forecast.step_s"))
    for knob in said.values():
        where = f"--tune {knob.key}"
        _check_belongs(knob.key, policy, where)
        for value in knob.samples:
            with_values(settings, {knob.key: value}, where)
    if tick and step:
        for pair in product(tick.samples, step.samples):
            with_values(settings, dict(zip((tick.key, step.key), pair, strict=True)))
    if not knobs:
        remedy = "name some with --tune or --space, or leave --only-named out for the ranges that are declared"
        raise BadInput(f"no setting of {policy} is named to be searched", "--only-named", remedy)
    if len(knobs) > _MOST_KNOBS:
        raise BadInput(f"{len(knobs)} settings are too many to search", "--tune", f"search at most {_MOST_KNOBS}")
    return tuple(knobs.values())


def declared(policy: str, settings: SimulationSettings) -> Iterator[Knob]:
    """Yield the ranges of ``policy``: Foresail's stand beside its settings (``policies.tunable``).

    Those of a rival reach from end to end of what a sweep tries of it (``simulations.peers.catalogue``), defaults
    included.
    """
    if policy != "foresail":
        yield from _swept(policy)
        return
    for root in _OURS:
        if isinstance(section := getattr(settings, root, None), BaseModel):
            yield from _declared_in(section, root)


def value_at(settings: BaseModel, key: str) -> Any:
    """Return the value that ``settings`` have under a dotted key that is known to be there."""
    value: Any = settings
    for part in key.split("."):
        value = getattr(value, part)
    return value


def with_values(settings: SimulationSettings, values: Values, where: str = "--tune") -> SimulationSettings:
    """Return ``settings`` with other values, checked as if they had been written in a file.

    Raises:
        BadInput: If there is no such setting, or it cannot have that value.
    """
    for key, value in values.items():
        settings = _with_value(settings, key.split("."), value, key, where)
    tick_s, step_s = settings.policy.tick_s, settings.forecast.step_s
    if not math.isclose(step_s / tick_s, max(1, round(step_s / tick_s)), rel_tol=1e-9):
        what = f"a forecast step of {step_s:g} s is not a whole multiple of a tick of {tick_s:g} s"
        raise BadInput(what, where, "try only ticks that divide the step, such as policy.tick_s=10,15,30")
    return settings


def possible(settings: SimulationSettings, values: Values) -> bool:
    """Return whether ``settings`` can have these values together; each may be possible and some of them contradict."""
    try:
        with_values(settings, values)
    except BadInput:
        return False
    return True


def _with_value(section: Any, parts: Sequence[str], value: object, key: str, where: str) -> Any:
    first, *rest = parts
    if not isinstance(section, BaseModel) or first not in type(section).model_fields:
        known = ", ".join(type(section).model_fields) if isinstance(section, BaseModel) else "nothing"
        raise BadInput(f"{key}: there is no such setting", where, f"known beside {first}: {known}")
    if rest:
        return section.model_copy(update={first: _with_value(getattr(section, first), rest, value, key, where)})
    if isinstance(getattr(section, first), BaseModel):
        raise BadInput(f"{key} is a section, not a setting", where, "name one of the settings in it")
    said = {name: getattr(section, name) for name in section.model_fields_set} | {first: value}
    try:
        return type(section).model_validate(said)
    except ValidationError as error:
        message = error.errors()[0]["msg"].removeprefix("Value error, ")
        remedy = type(section).model_fields[first].description or ""
        raise BadInput(f"{key} cannot be {value}: {message[:1].lower()}{message[1:]}", where, remedy) from None


def _declared_in(section: BaseModel, prefix: str) -> Iterator[Knob]:
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            yield from _declared_in(value, f"{prefix}.{name}")
        for mark in field.metadata:
            if isinstance(mark, Tunable):
                whole = field.annotation is int
                yield Knob(f"{prefix}.{name}", mark.low, mark.high, mark.log, whole, why=mark.why)


def _swept(policy: str) -> Iterator[Knob]:
    tried: dict[str, set[Any]] = {}
    for change in (change for point in CATALOGUE[policy].grid for change in point.split()):
        key, _, text = change.partition("=")
        tried.setdefault(key, set()).add(value_of(text, change))
    default = SimulationSettings()
    for key, values in tried.items():
        ordered = sorted(values | {value_at(default, key)} - {None})
        if isinstance(ordered[0], bool):
            yield Knob(key, choices=(False, True), why=_SWEPT)
        else:
            low, high = float(ordered[0]), float(ordered[-1])
            log = 0 < low * _LOG_FROM_RATIO <= high
            yield Knob(key, low, high, log, _wants_whole(key), why=_SWEPT)


_SWEPT = "what a sweep tries, from end to end"


def _check_belongs(key: str, policy: str, where: str) -> None:
    """Refuse what ``policy`` does not read, and what results are measured by."""
    root, _, rest = key.partition(".")
    if root == "policy" and rest.partition(".")[0] in _YARDSTICK:
        raise BadInput(f"{key} is what results are measured by, not a way to get them", where, "search other settings")
    roots = _OURS if policy == "foresail" else ("policy", part_of(policy))
    if root not in roots:
        raise BadInput(f"{key} is no setting of {policy}", where, f"its settings begin with {' or '.join(roots)}")


def _of_file(path: Path | None) -> Iterator[Knob]:
    if path is None:
        return
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise BadInput(f"cannot be read: {(error.strerror or str(error)).lower()}", f"--space {path}") from None
    text = read_yaml(content)
    for problem in text.problems:
        place = f"{path}:{problem.mark.line}:{problem.mark.column}" if problem.mark else str(path)
        raise BadInput(problem.what, place, problem.remedy)
    if not isinstance(text.value, dict):
        raise BadInput("no search space: it has no keys", str(path), f"write lines such as {_EXAMPLE}")
    for key, value in text.value.items():
        yield _knob(str(key), value, f"{path}: {key}")


_EXAMPLE = "policy.scaling.headroom_ratio: 0.1:0.5"


def _of_text(text: str) -> Knob:
    key, equals, values = text.partition("=")
    where = f"--tune {text}"
    if not equals or not key.strip() or not values.strip():
        remedy = "write KEY=LOW:HIGH, KEY=LOW:HIGH:log, or KEY=A,B,C"
        raise BadInput("not of the form KEY=LOW:HIGH", where, remedy)
    return _knob(key.strip(), values if ":" in values else list[Value](values.split(",")), where)


def _knob(key: str, value: Value, where: str) -> Knob:
    if isinstance(value, list):
        choices = tuple(_plain(each) if isinstance(each, str) else each for each in value)
        if len(choices) < 2 or not all(isinstance(each, float | int | str | bool) for each in choices):
            raise BadInput("fewer than two values to choose from", where, "write KEY=A,B, or KEY=LOW:HIGH")
        if len(set(choices)) < len(choices):
            raise BadInput("a value is there twice", where, "name each once")
        return Knob(key, choices=choices)  # type: ignore[arg-type]  # just checked
    parts = str(value).split(":")
    if len(parts) not in (2, 3) or (len(parts) == 3 and parts[2].strip() != "log"):
        raise BadInput(f"{value!r} is no range", where, "write LOW:HIGH or LOW:HIGH:log")
    low, high = (_plain(part) for part in parts[:2])
    if not all(
        isinstance(end, float | int) and not isinstance(end, bool) and math.isfinite(end) for end in (low, high)
    ):
        raise BadInput(f"the ends of {value!r} are not numbers", where, "write for example 0.1:0.5")
    log = len(parts) == 3
    if not float(low) < float(high) or (log and float(low) <= 0):
        above = " above 0" if log else ""
        raise BadInput(f"{value!r} is no range", where, f"give a lower end{above} that is less than the upper one")
    whole = isinstance(low, int) and isinstance(high, int) and _wants_whole(key)
    return Knob(key, float(low), float(high), log, whole)


def _wants_whole(key: str) -> bool:
    """Return whether the setting of this key counts something."""
    annotation: Any = SimulationSettings
    for part in key.split("."):
        field = getattr(annotation, "model_fields", {}).get(part)
        annotation = None if field is None else field.annotation
    return annotation is int


def _plain(text: str) -> float | int | str | bool:
    value = read_yaml(text.strip().encode()).value
    return value if isinstance(value, float | int | str | bool) else text.strip()
