"""How is a trace made from another, step by step, and how are the steps written?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from controller.errors import BadInput
from simulations.trace import LONGEST_S, Trace
from simulations.trace_changes import Crowded, Followed, Interrupted, Mixed, Repeated, Retimed
from simulations.trace_views import MOST_COPIES, scaled, sliced

SYNTAX = """\
KIND[@SECONDS][:VALUE or KEY=VALUE,...], seconds of the trace as the steps before have left it; kinds and their keys:
     scale:K                    K times the load: jittered copies, or thinned below 1
     warp:K                     K times as long and as much slower; below 1 faster
     slice@S:length             what arrives from S on, for length seconds (default: to the end)
     shift:S                    S seconds later
     repeat:N,every             N times, the next one every so many seconds (default: when the one before ends)
     concat:FILE                FILE follows at the end
     splice@S:FILE              FILE is put in at S, and what comes after S moves on
     merge:FILE                 FILE's requests are added
     crowd@S:peak,ramp,length,fall   a flash crowd: peak (3) times the load after ramp (60) seconds, over after length
                                (600) and fall (ramp)
     outage@S:length,retry,spread    nothing arrives for length (120) seconds; then the share retry (0.7) of what was
                                missed comes, spread (60) seconds later on average"""

MOST_STEPS = 64
_MOST_PEAK = 1000.0
_MOST_REPEATS = 10_000

Opener = Callable[[str], Trace]


class Step(Protocol):
    """A way to make a trace from another."""

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return what becomes of ``trace``; ``opened`` opens files that are named."""
        ...


def parse_step(spec: str) -> Step:
    """Return the step written as ``spec``.

    >>> parse_step("warp:2")
    Warp(factor=2.0)

    Raises:
        BadInput: If a part cannot be read; it names the part and shows the syntax.
    """
    head, colon, tail = spec.partition(":")
    kind, at_sign, at_text = head.partition("@")
    if kind not in _KINDS:
        raise _bad(spec, f"unknown kind of step {kind!r}; known: {', '.join(_KINDS)}")
    has_instant, keys, build = _KINDS[kind]
    if bool(at_sign) != has_instant:
        raise _bad(spec, f"{kind} needs an instant: write {kind}@SECONDS" if has_instant else f"{kind} has no instant")
    words = _Words(spec, _values(spec, tail if colon else "", keys))
    return build(words.number_of("instant", at_text, least=0.0, most=LONGEST_S) if at_sign else 0.0, words)


def composed(trace: Trace, specs: Sequence[str], seed: int, opened: Opener) -> Trace:
    """Return what becomes of ``trace`` by the steps in order. Equal seeds give equal requests.

    Raises:
        BadInput: If a step cannot be read, or is known not to fit. What shows only later is told while reading.
    """
    if len(specs) > MOST_STEPS:
        raise BadInput(f"{len(specs)} steps are too many", "steps", f"give at most {MOST_STEPS}")
    for position, step in enumerate([parse_step(spec) for spec in specs]):
        # Each step has random numbers of its own, so that two alike do not copy or drop the same requests.
        own = int(np.random.SeedSequence([seed, position]).generate_state(1, np.uint32)[0])
        trace = step.applied(trace, own, opened)
    return trace


@dataclass(frozen=True, slots=True)
class Scale:
    """``factor`` times the load."""

    factor: float

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return the trace of more or less load."""
        return scaled(trace, self.factor, seed)


@dataclass(frozen=True, slots=True)
class Warp:
    """``factor`` times as long."""

    factor: float

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return the stretched or compressed trace."""
        return Retimed(trace, factor=self.factor)


@dataclass(frozen=True, slots=True)
class Shift:
    """``later_s`` seconds later."""

    later_s: float

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return the trace that begins with silence."""
        return Retimed(trace, later_s=self.later_s)


@dataclass(frozen=True, slots=True)
class Slice:
    """What arrives from ``start_s`` on, for ``length_s``."""

    start_s: float
    length_s: float

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return the part."""
        return sliced(trace, self.start_s, None if math.isinf(self.length_s) else self.length_s)


@dataclass(frozen=True, slots=True)
class Repeat:
    """``times`` times, each ``every_s`` after the one before; infinite when that one ends."""

    times: int
    every_s: float

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return the longer trace."""
        return Repeated(trace, self.times, self.every_s)


@dataclass(frozen=True, slots=True)
class Concat:
    """A file follows."""

    path: str

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return both, one after the other."""
        return Followed(trace, opened(self.path), math.inf)


@dataclass(frozen=True, slots=True)
class Splice:
    """A file is put in at ``at_s``."""

    at_s: float
    path: str

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return the trace with the file in it."""
        return Followed(trace, opened(self.path), self.at_s)


@dataclass(frozen=True, slots=True)
class Merge:
    """A file's requests are added."""

    path: str

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return both together."""
        return Mixed(trace, opened(self.path))


@dataclass(frozen=True, slots=True)
class Crowd:
    """A flash crowd from ``at_s`` on: up to ``peak`` times the load."""

    at_s: float
    peak: float
    ramp_s: float
    length_s: float
    fall_s: float

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return the trace with the crowd."""
        corners = np.cumsum([self.at_s, self.ramp_s, self.length_s - self.ramp_s, self.fall_s])
        return Crowded(trace, corners, self.peak, seed)


@dataclass(frozen=True, slots=True)
class Outage:
    """Nothing arrives for ``length_s``; then ``retry_ratio`` of what was missed, ``spread_s`` later on average."""

    at_s: float
    length_s: float
    retry_ratio: float
    spread_s: float

    def applied(self, trace: Trace, seed: int, opened: Opener) -> Trace:
        """Return the trace with the outage and the surge."""
        return Interrupted(trace, self.at_s, self.at_s + self.length_s, self.retry_ratio, self.spread_s, seed)


class _Words:
    """What follows the colon, with the spec for error messages; the value without a key is under ""."""

    def __init__(self, spec: str, values: Mapping[str, str]) -> None:
        self.spec, self.values = spec, values

    def number(self, key: str, default: float | None, least: float, most: float, *, above: bool = False) -> float:
        if key in self.values:
            return self.number_of(key or "the value", self.values[key], least, most, above=above)
        if default is None:
            raise _bad(self.spec, f"{key or 'a value'} is missing")
        return default

    def number_of(self, what: str, text: str, least: float, most: float, *, above: bool = False) -> float:
        try:
            value = float(text)
        except ValueError:
            raise _bad(self.spec, f"{what} must be a number, got {text!r}") from None
        if not least <= value <= most or (above and value == least):
            raise _bad(
                self.spec, f"{what} must be {'more than' if above else 'from'} {least:g} to {most:g}, got {text!r}"
            )
        return value

    def seconds(self, key: str, default: float | None) -> float:
        return self.number(key, default, 0.0, LONGEST_S, above=True)

    def path(self) -> str:
        if not self.values.get("", ""):
            raise _bad(self.spec, "no file is named")
        return self.values[""]


def _crowd(at_s: float, words: _Words) -> Crowd:
    ramp_s, length_s = words.seconds("ramp", 60.0), words.seconds("length", 600.0)
    if length_s < ramp_s:
        raise _bad(words.spec, f"the length of {length_s:g} s is shorter than the ramp of {ramp_s:g} s")
    peak = words.number("peak", 3.0, 1.0, _MOST_PEAK, above=True)
    return Crowd(at_s, peak, ramp_s, length_s, words.seconds("fall", ramp_s))


def _outage(at_s: float, words: _Words) -> Outage:
    retry_ratio = words.number("retry", 0.7, 0.0, 1.0)
    return Outage(at_s, words.seconds("length", 120.0), retry_ratio, words.seconds("spread", 60.0))


def _repeat(_at_s: float, words: _Words) -> Repeat:
    times = words.number("", None, 1.0, _MOST_REPEATS)
    if times != int(times):
        raise _bad(words.spec, f"a trace is repeated a whole number of times, not {times:g}")
    return Repeat(int(times), words.seconds("every", math.inf))


_KINDS: Mapping[str, tuple[bool, frozenset[str], Callable[[float, _Words], Step]]] = {
    "scale": (False, frozenset({""}), lambda _, words: Scale(words.number("", None, 0.0, MOST_COPIES, above=True))),
    "warp": (False, frozenset({""}), lambda _, words: Warp(words.number("", None, 0.0, LONGEST_S, above=True))),
    "slice": (True, frozenset({"length"}), lambda at_s, words: Slice(at_s, words.seconds("length", math.inf))),
    "shift": (False, frozenset({""}), lambda _, words: Shift(words.number("", None, 0.0, LONGEST_S))),
    "repeat": (False, frozenset({"", "every"}), _repeat),
    "concat": (False, frozenset({""}), lambda _, words: Concat(words.path())),
    "splice": (True, frozenset({""}), lambda at_s, words: Splice(at_s, words.path())),
    "merge": (False, frozenset({""}), lambda _, words: Merge(words.path())),
    "crowd": (True, frozenset({"peak", "ramp", "length", "fall"}), _crowd),
    "outage": (True, frozenset({"length", "retry", "spread"}), _outage),
}
_OF_FILES = frozenset({"concat", "splice", "merge"})


def _values(spec: str, text: str, allowed: frozenset[str]) -> dict[str, str]:
    if spec.partition(":")[0].partition("@")[0] in _OF_FILES:
        return {"": text}  # a path may hold any character
    values: dict[str, str] = {}
    for part in text.split(",") if text else []:
        key, equals, value = part.rpartition("=")
        if not value or (equals and not key):
            raise _bad(spec, f"{part!r} is not KEY=VALUE")
        if key not in allowed:
            known = ", ".join(sorted(allowed - {""})) or "none"
            raise _bad(
                spec, f"unknown key {key!r}; known here: {known}" if key else f"no plain value here; keys: {known}"
            )
        if key in values:
            raise _bad(spec, f"{key or 'the value'} is given twice")
        values[key] = value
    return values


def _bad(spec: str, what: str) -> BadInput:
    return BadInput(what, f"step {spec!r}", SYNTAX)
