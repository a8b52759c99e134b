"""How did incidents go, side by side: one bar each from its onset on, with what was done, as a picture.

Importing this module imports matplotlib (1 s): import it late. No display is needed.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.transforms import offset_copy

from controller.errors import BadInput
from controller.incidents.incident import Incident, Span
from controller.incidents.tables import seconds
from controller.incidents.verdict import verdicts_of
from controller.instants import instant

MOST_BARS = 40
TAIL_S = 60.0
MOST_TICKS = 9
LOG_FROM = 20.0  # times as long as the median incident: on a linear scale the others would be lines

# After Okabe and Ito, so that they stay apart under colour blindness; hatches stay apart without any colour.
_LOOKS = {
    "suspected": ("#F0E442", ""),
    "diagnosed": ("#D55E00", ""),
    "out of traffic": ("#56B4E9", "//"),
    "exited or gone": ("#4d4d4d", ""),
    "restarting": ("#0072B2", "\\\\"),
    "recovered": ("#009E73", ""),
}
_MARKS = {"cordon": "v", "uncordon": "^", "restart": "X", "page": "*", "scale": "P"}
_OTHER_MARK = "D"
_INK = "#1a1a1a"
_STEPS_S = (15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0, 10800.0, 21600.0, 86400.0, 604800.0)


def write_plot(path: Path, incidents: Sequence[Incident]) -> None:
    """Write the picture to ``path`` (PNG or SVG, by its ending): the newest ``MOST_BARS`` incidents, oldest on top.

    It is written whole or not at all.

    Raises:
        BadInput: If it cannot be written.
    """
    shown = incidents[-MOST_BARS:]
    figure = Figure(figsize=(11.0, 2.2 + 0.5 * max(len(shown), 1)), layout="constrained")
    axes = figure.subplots()
    lengths_s = [_shown_s(incident) for incident in shown] or [TAIL_S]
    _scale(axes, lengths_s)
    for place, incident in enumerate(shown):
        _draw_bar(axes, place, incident)
        _draw_acts(figure, axes, place, incident)
        _say_end(axes, place, incident)
    axes.set_yticks(range(len(shown)), [_label(incident) for incident in shown], fontsize="small")
    axes.set_ylim(len(shown) - 0.4, -0.8)
    axes.set_xlabel("since the first evidence")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.6)
    axes.set_axisbelow(True)
    _write_legend(figure, shown)
    left_out = f", the newest of {len(incidents)}" if len(shown) < len(incidents) else ""
    figure.suptitle(f"{len(shown)} incident{'s' * (len(shown) != 1)}{left_out}", fontsize="large")
    content = io.BytesIO()
    figure.savefig(content, format=path.suffix[1:].lower(), dpi=110)
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_bytes(content.getvalue())
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        reason = (error.strerror or str(error)).lower()
        remedy = "name a file in a folder that can be written to"
        raise BadInput(f"cannot be written: {reason}", f"--plot {path}", remedy) from None


def _scale(axes: Axes, lengths_s: Sequence[float]) -> None:
    """Give the axis room for the longest bar and the words beside it; logarithmic where others would vanish."""
    longest_s = max(lengths_s)
    if longest_s > LOG_FROM * median(lengths_s):
        axes.set_xscale("symlog", linthresh=TAIL_S)
        axes.set_xlim(0.0, 10.0 * longest_s)
        marks = [0.0, *(step for step in _STEPS_S if step <= longest_s)][::2]
    else:
        axes.set_xlim(0.0, 1.4 * longest_s)
        step_s = next((step for step in _STEPS_S if longest_s <= MOST_TICKS * step), longest_s / MOST_TICKS)
        marks = [place * step_s for place in range(int(longest_s / step_s) + 1)]
    axes.set_xticks(marks, [seconds(at) for at in marks])
    axes.minorticks_off()


def _draw_bar(axes: Axes, place: int, incident: Incident) -> None:
    """Draw where the subject was from its onset on, and a short tail of its recovery."""
    end_s = _shown_s(incident)
    pieces = [(0.0, incident.suspected_at - incident.began_at, "suspected")]
    for span, following in zip(incident.spans, (*incident.spans[1:], None), strict=True):
        until_at = following.from_at if following else span.until_at
        pieces.append((span.from_at - incident.began_at, min(until_at - incident.began_at, end_s), _look(span)))
    for from_s, until_s, look in pieces:
        if until_s > from_s:
            colour, hatch = _LOOKS[look]
            axes.barh(place, until_s - from_s, 0.44, from_s, color=colour, hatch=hatch, edgecolor="white", linewidth=0)


def _draw_acts(figure: Figure, axes: Axes, place: int, incident: Incident) -> None:
    """Mark each act that was done, filled, and the first of each kind that was not, hollow."""
    told: set[tuple[str, str]] = set()
    beside: Counter[float] = Counter()
    for event in incident.events:
        done = event.what == "done"
        if event.what not in ("done", "held", "failed") or (not done and (event.name, event.what) in told):
            continue
        told.add((event.name, event.what))
        axes.plot(
            event.at - incident.began_at,
            place - 0.4,
            marker=_MARKS.get(event.name, _OTHER_MARK),
            markersize=6,
            color=_INK,
            markerfacecolor=_INK if done else "white",
            linestyle="none",
            clip_on=False,
            transform=offset_copy(axes.transData, figure, x=9.0 * beside[event.at], units="points"),
        )
        beside[event.at] += 1


def _say_end(axes: Axes, place: int, incident: Incident) -> None:
    """Write beside the bar how it stands, and what the held acts would have been."""
    judged = ", ".join(f"{held.verb} {verdict.word}" for held, verdict in verdicts_of(incident))
    text = f"{incident.state}{'; would have: ' * bool(judged)}{judged}"
    beside: Mapping[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center"}
    axes.annotate(text, (_shown_s(incident), place), fontsize="x-small", color=_INK, **beside)


def _write_legend(figure: Figure, shown: Sequence[Incident]) -> None:
    """Explain the colours, and the marks that are there."""
    patches = [Patch(facecolor=c, hatch=h, edgecolor="white", label=look) for look, (c, h) in _LOOKS.items()]
    names = {event.name for i in shown for event in i.events if event.what in ("done", "held", "failed")}
    style: Mapping[str, Any] = {"color": _INK, "linestyle": "none", "markersize": 6}
    marks = [Line2D([], [], marker=mark, label=name, **style) for name, mark in _MARKS.items() if name in names]
    if names - set(_MARKS):
        marks.append(Line2D([], [], marker=_OTHER_MARK, label="another act", **style))
    hollow = Line2D([], [], marker="o", markerfacecolor="white", label="held or failed", **style)
    held = [hollow] if any(event.what in ("held", "failed") for i in shown for event in i.events) else []
    figure.legend(
        handles=[*patches, *marks, *held], loc="outside lower center", ncols=6, frameon=False, fontsize="small"
    )


def _look(span: Span) -> str:
    match span.condition:
        case "out" | "draining":
            return "out of traffic"
        case "starting":
            return "restarting"
        case "missing" | "replaced" | "serving" if span.under_way and not span.cause:
            return "restarting"
        case "failed" | "missing":
            return "exited or gone"
    return "recovered" if span.well else "suspected" if span.cause == "unknown" else "diagnosed"


def _label(incident: Incident) -> str:
    return f"{incident.id}  {incident.cause}  {incident.subject.name}\n{instant(incident.began_at)}"


def _shown_s(incident: Incident) -> float:
    """Return how much of it is drawn: up to its end, and of its recovery a tail."""
    recovered_s = incident.recover_s
    seen_s = incident.seen_until_at - incident.began_at
    return max(seen_s, 1.0) if recovered_s is None else min(seen_s, recovered_s + TAIL_S)
