"""Does the newest value of a series fit what came before? One value at a time, from a state of bounded size.

Each view of a value (``views``) has its own histogram of past deviations (``tail``), which says how rare this one is,
so that views, and series of any unit and shape, can be compared. The rarity of a value is half the mean over the views
and half the highest: many that agree, or one that is sure. A value fires where it is rarer than what is left of the
last that fired: an alarm that is repeated tells nothing.

What is usual is not learned from an anomaly, until that has lasted so long that it is what is usual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import exp, isfinite, isinf, isnan, nan
from typing import Any

from forecasting.detection.baselines import Level
from forecasting.detection.onset import Onset
from forecasting.detection.tail import RAREST, Tail
from forecasting.detection.views import FROM_USUAL, VIEWS, Views

ALARM_SCORE = 0.5
LARGEST = 1e150
"""Values beyond are taken as this, so that no product overflows."""


@dataclass(frozen=True, slots=True)
class DetectorSettings:
    """What may differ between uses; the defaults are for any metric.

    Args:
        memory: Values in effect in the level and in the histograms.
        alarm_rarity: Rarity that becomes a score of 0.5: 3 is one value in a thousand.
        quiet_steps: Time constant, in usual times between values, in which the last alarm fades.
        margin: Deviations up to this, in the unit of the values, are none.
        margin_ratio: Deviations up to this share of the expected value are none.
        accept_after_s: An anomaly that has lasted this long is what is usual from then on.
    """

    memory: float = 4000.0
    alarm_rarity: float = 3.0
    quiet_steps: float = 200.0
    margin: float = 0.0
    margin_ratio: float = 0.0
    accept_after_s: float = 86400.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one value was found to be.

    Args:
        score: From 0 to 1; from ``ALARM_SCORE`` on it is an alarm. 0 also where it only repeats the last alarm.
        rarity: ``-log10`` of how probable so odd a value is, repeated or not; NaN where the value is missing.
        expected: What was expected; NaN before anything was seen.
        since: When the series began to stray; the value's own time where it did not before.
        view: In which view the value is oddest; empty where it is in none.
    """

    score: float
    rarity: float
    expected: float
    since: float
    view: str


class Detector:
    """The state of one series. ``step`` changes it; ``copy`` first where the old one is still needed."""

    def __init__(self, settings: DetectorSettings | None = None) -> None:
        self.settings = DetectorSettings() if settings is None else settings
        chosen = self.settings
        self._tails = {view: Tail(chosen.memory) for view in VIEWS}
        self._views = Views(Level(chosen.memory), chosen.margin, chosen.margin_ratio)
        self._onset = Onset()
        self._fired = 0.0
        self._anomalous_since: float | None = None

    def step(self, at: float, value: float) -> Verdict:
        """Return the verdict on ``value`` at ``at``, in seconds since 1970, and learn it.

        NaN is missing: no score, and nothing learned. An infinite value is as rare as any can be, and not learned. A
        time at or before the last one counts as one usual step after it.

        Raises:
            ValueError: If ``at`` is not finite.
        """
        if not isfinite(at):
            raise ValueError(f"the time of a value must be finite: {at}")
        if isnan(value):
            return Verdict(0.0, nan, self.expected(at), at, "")
        if isinf(value):
            return self._verdict(at, RAREST, self.expected(at), "level")
        value = max(-LARGEST, min(LARGEST, value))
        look = self._views.look(at, value)
        rarity, view = self._rarity(look.deviations)
        self._onset.add(at, look.strayed)
        verdict = self._verdict(at, rarity, look.expected, view)
        if self._may_learn(at):
            self._views.learn(at, value)
        return verdict

    def expected(self, at: float) -> float:
        """Return what is expected at ``at``; NaN before anything was seen."""
        return self._views.usual(at)[0] if self._views.seen else nan

    def band(self, at: float, rarity: float | None = None) -> tuple[float, float]:
        """Return between which values the next one, at ``at``, is no rarer than ``rarity`` for its time of day.

        ``rarity`` is by default that of an alarm. While the time of day is not known, the level's own deviations say;
        before these are known, the band is infinite.
        """
        rarity = self.settings.alarm_rarity if rarity is None else rarity
        level, course = (self._tails[view].at_rarity(rarity) for view in ("level", "season_ratio"))
        return self._views.band(at, level, course)

    def copy(self) -> Detector:
        """Return an equal one that learns apart from this one."""
        other = Detector.__new__(Detector)
        other.settings, other._fired, other._anomalous_since = self.settings, self._fired, self._anomalous_since
        other._tails = {view: tail.copy() for view, tail in self._tails.items()}
        other._views, other._onset = self._views.copy(), replace(self._onset)
        return other

    def to_json(self) -> dict[str, Any]:
        """Return numbers and names that ``from_json`` makes an equal one of."""
        return {
            "settings": asdict(self.settings),
            "tails": {view: tail.to_json() for view, tail in self._tails.items()},
            "views": self._views.to_json(),
            "onset": asdict(self._onset),
            "fired": self._fired,
            "anomalous_since": self._anomalous_since,
        }

    @classmethod
    def from_json(cls, kept: Mapping[str, Any]) -> Detector:
        """Return what ``to_json`` described."""
        detector = cls(DetectorSettings(**kept["settings"]))
        memory = detector.settings.memory
        detector._tails = {view: Tail.from_json(tail, memory) for view, tail in kept["tails"].items()}
        detector._views, detector._onset = Views.from_json(kept["views"]), Onset(**kept["onset"])
        detector._fired, detector._anomalous_since = kept["fired"], kept["anomalous_since"]
        return detector

    def _rarity(self, deviations: Mapping[str, float]) -> tuple[float, str]:
        """Return how rare a value with these deviations is, and in which view it is rarest, and count them."""
        tails, total, highest = self._tails, 0.0, 0.0
        oddest = ""
        for view, deviation in deviations.items():
            rarity = tails[view].add(deviation)
            total += rarity
            if rarity > highest:
                highest, oddest = rarity, view
        return 0.5 * highest + 0.5 * total / len(deviations), oddest

    def _verdict(self, at: float, rarity: float, expected: float, view: str) -> Verdict:
        """Return the verdict, the alarm before it taken into account."""
        views, settings = self._views, self.settings
        self._fired *= exp(-views.gap_s / (settings.quiet_steps * views.step_s))
        score = 0.0
        if rarity > self._fired:
            self._fired = rarity
            score = 1.0 - 0.5 ** (rarity / settings.alarm_rarity)
        since = self._onset.since(at)
        if score >= ALARM_SCORE and self._anomalous_since is None:
            self._anomalous_since = since
        return Verdict(score, rarity, expected, since, view)

    def _may_learn(self, at: float) -> bool:
        """Return whether the value at ``at`` may be learned: not from an anomaly, until it has lasted too long."""
        if self._anomalous_since is None:
            return True
        if not self._onset.running:
            self._anomalous_since = None
            return True
        if at - self._anomalous_since < self.settings.accept_after_s:
            return False
        self._anomalous_since = None
        self._onset.clear()
        self._views.doubt()
        for view in FROM_USUAL:  # how far values strayed from what is no longer usual says nothing
            self._tails[view] = Tail(self.settings.memory)
        return True
