"""Metric series for tests of the detector."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from forecasting.detection.detector import Detector, DetectorSettings, Verdict

Floats = NDArray[np.float64]
DAY_ROWS = 288
STEP_S = 300.0


def times(rows: int, step_s: float = STEP_S) -> Floats:
    """Return instants ``step_s`` apart from 2026-01-05, a Monday, on."""
    return 1_767_571_200.0 + step_s * np.arange(rows)


def daily(days: float, seed: int = 0, noise: float = 2.0) -> tuple[Floats, Floats]:
    """Return times and values around 100 that swing by 40 with the time of day."""
    at = times(round(days * DAY_ROWS))
    values = 100.0 + 40.0 * np.sin(2.0 * np.pi * at / 86_400.0)
    return at, values + np.random.default_rng(seed).normal(0.0, noise, len(at))


def flat(rows: int, seed: int = 0, step_s: float = STEP_S) -> tuple[Floats, Floats]:
    """Return times and values around 50 with normal noise of 2."""
    return times(rows, step_s), 50.0 + np.random.default_rng(seed).normal(0.0, 2.0, rows)


def verdicts(at: Floats, values: Floats, settings: DetectorSettings | None = None) -> list[Verdict]:
    """Return what a new detector says to each value."""
    detector = Detector(settings)
    return [detector.step(*row) for row in zip(at.tolist(), values.tolist(), strict=True)]


def alarms(found: list[Verdict], threshold: float = 0.5) -> list[int]:
    """Return the rows that are alarms."""
    return [row for row, verdict in enumerate(found) if verdict.score >= threshold]
