"""How is a signal asked for in PromQL? Expressions for a whole fleet, with every label value quoted.

An expression asks for one figure per group of labels::

    sum by (pod) (max without (tp_rank) (sglang:num_running_reqs{pod!=""}))
      or on (pod)
    sum by (pod) (max without (tp_rank) (sglang_num_running_reqs{pod!=""}))

Ranks that repeat a figure count once (``max without``), what really differs is added up, and of several names that
matched, each replica's best one is taken (``or on``), so that a fleet in the middle of an upgrade is whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controller.signals.catalogue import Candidate

Change = Literal["increase", "delta"]

_LABEL = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_SPECIAL = re.compile(r"([\\.+*?()|\[\]{}^$])")


@dataclass(frozen=True, slots=True)
class Grouping:
    """What an expression gives one figure for.

    Attributes:
        by: Labels that the figures are told apart by.
        repeated: Labels of ranks that all report the same figure.
        match: Labels that a series must have, with their value; of ``present`` any value but none.
        present: Labels that a series must have.
    """

    by: tuple[str, ...]
    repeated: tuple[str, ...] = ()
    match: Mapping[str, str] | None = None
    present: tuple[str, ...] = ()

    def by_labels(self, *by: str) -> Grouping:
        """Return the same over other labels."""
        return Grouping(by, self.repeated, self.match, self.present)

    def matchers(self) -> list[str]:
        """Return the matchers that every selector carries."""
        given = [f"{label(name)}={quoted(value)}" for name, value in sorted((self.match or {}).items())]
        return [*given, *map(present, self.present)]


def quoted(text: str) -> str:
    r"""Return ``text`` as a PromQL string.

    >>> print(quoted('a"} or vector(0) #'))
    "a\"} or vector(0) #"
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def label(name: str) -> str:
    """Return ``name`` if it can be a label; raises ValueError."""
    if not _LABEL.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a label")
    return name


def present(name: str) -> str:
    """Return the matcher of series that have a label."""
    return f'{label(name)}!=""'


def one_of(values: Iterable[str]) -> str:
    """Return the quoted regular expression that matches exactly ``values``."""
    return quoted("|".join(_SPECIAL.sub(r"\\\1", value) for value in values))


def selector(candidate: Candidate, grouping: Grouping, name: str = "", extra: Sequence[str] = ()) -> str:
    """Return the series of a candidate; ``name`` instead of its own for a part of it."""
    matchers = [f"{label(key)}=~{one_of(values)}" for key, values in sorted(candidate.where.items())]
    matchers += [f"{label(key)}!~{one_of(values)}" for key, values in sorted(candidate.other_than.items())]
    return f"{name or candidate.name}{{{','.join([*grouping.matchers(), *matchers, *extra])}}}"


def figure(
    candidates: Sequence[Candidate],
    grouping: Grouping,
    across: str,
    part: str = "",
    over_s: float | None = None,
    change: Change = "increase",
) -> str:
    """Return one figure per group, of each the first candidate that has it.

    Args:
        candidates: In order of preference; at least one.
        grouping: What there is one figure for.
        across: ``sum`` or ``max``: how series of a group become one figure.
        part: ``_sum``, ``_count`` for a part of a histogram.
        over_s: If given, the change over that many seconds up to the evaluation instead of the figure itself.
        change: ``increase`` of a counter, resets aside, or ``delta`` of a gauge.
    """

    def aggregated(series: str) -> str:
        return _aggregated(series, grouping, across, over_s, change)

    each = across != "sum" and over_s is None
    return _first(grouping, [_figure(candidate, grouping, part, aggregated, each) for candidate in candidates])


def _figure(candidate: Candidate, grouping: Grouping, part: str, aggregated: Callable[[str], str], each: bool) -> str:
    """Return the expression of one candidate; a ratio is taken of ``each`` series, or else of their sums."""

    def of(name: str) -> str:
        return aggregated(selector(candidate, grouping, name + part))

    if candidate.over and each:
        top, bottom = (selector(candidate, grouping, name + part) for name in (candidate.name, candidate.over))
        return aggregated(f"{top} / {bottom}")
    text = of(candidate.name)
    for name in candidate.plus:  # a statistic that is always zero may be left out of an exposition
        text = f"({text} + ({of(name)} or {of(candidate.name)} * 0))"
    if candidate.over:
        text = f"({text} / {of(candidate.over)})"
    # a count of observations has no unit to be turned into another
    return text if candidate.times == 1 or part == "_count" else f"({text} * {candidate.times:g})"


def changed(candidates: Sequence[Candidate], grouping: Grouping, across: str, within_s: float) -> str:
    """Return one figure per group, of series that have changed in the last seconds only: what is new, not what was."""
    texts = []
    for candidate in candidates:
        series = selector(candidate, grouping)
        texts.append(_aggregated(f"{series} and changes({series}[{seconds(within_s)}]) > 0", grouping, across, None))
    return _first(grouping, texts)


def buckets(candidates: Sequence[Candidate], grouping: Grouping, bounds: Iterable[str], over_s: float) -> str:
    """Return the growth of cumulative buckets over a window, per group and ``le``, of the first candidate."""
    candidate = candidates[0]
    chosen = selector(candidate, grouping, f"{candidate.name}_bucket", [f"le=~{one_of(sorted(bounds))}"])
    return _aggregated(chosen, grouping.by_labels(*grouping.by, "le"), "sum", over_s)


def quantile(level: float, candidates: Sequence[Candidate], grouping: Grouping, over_s: float) -> str:
    """Return a quantile per group of what a histogram observed over a window."""
    texts = []
    for candidate in candidates:
        series = _aggregated(
            selector(candidate, grouping, f"{candidate.name}_bucket"),
            grouping.by_labels(*grouping.by, "le"),
            "sum",
            over_s,
        )
        text = f"histogram_quantile({level:g}, {series})"
        texts.append(text if candidate.times == 1 else f"{text} * {candidate.times:g}")
    return _first(grouping, texts)


def sampled_at(candidates: Sequence[Candidate], grouping: Grouping, part: str = "") -> str:
    """Return when each group was last sampled, in seconds since the epoch: not when the query was evaluated."""
    names = ",".join(map(label, grouping.by))
    return _first(
        grouping,
        [f"max by ({names}) (timestamp({selector(c, grouping, c.name + part)}))" for c in candidates],
    )


def present_names(names: Iterable[str], grouping: Grouping) -> str:
    """Return how many series there are of each of ``names``."""
    return f"count by (__name__) ({{{','.join([f'__name__=~{one_of(sorted(names))}', *grouping.matchers()])}}})"


def _aggregated(series: str, grouping: Grouping, across: str, over_s: float | None, change: Change = "increase") -> str:
    text = series if over_s is None else f"{change}({series}[{seconds(over_s)}])"
    if grouping.repeated:
        text = f"max without ({','.join(map(label, grouping.repeated))}) ({text})"
    return f"{across} by ({','.join(map(label, grouping.by))}) ({text})"


def _first(grouping: Grouping, texts: Sequence[str]) -> str:
    return f" or on ({','.join(map(label, grouping.by))}) ".join(texts)


def seconds(duration_s: float) -> str:
    """Return a duration as PromQL writes it, to the millisecond."""
    return f"{max(1, round(duration_s * 1000))}ms"
