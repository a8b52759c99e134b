"""What load does the live stack get when no trace is given: a morning that rises in minutes, with a burst at noon."""

from __future__ import annotations

import csv
from pathlib import Path

from simulations.generator import ClientClass, FlashCrowd, GeneratedTrace, GeneratorSettings
from simulations.trace import Trace
from simulations.trace_views import scaled, sliced

DURATION_S = 480.0
"""Length of the ramp in seconds: trough to peak and half-way back."""

_DAY_S = 900.0
_FROM_HOUR = 5.0


def default_load(seed: int, scale: float = 1.0, duration_s: float | None = None) -> Trace:
    """Return chat requests that rise from about 1 to 6 per second within four minutes, then a burst on top.

    A generated day, squeezed into a quarter of an hour and replayed from five in the morning.
    """
    settings = GeneratorSettings(
        days=1,
        step_s=5.0,
        time_compression=86_400.0 / _DAY_S,
        requests_per_s=3.2,
        clients=(ClientClass(name="chat", share=1.0, peak_hour=13.0, day_peak_to_trough=5.0),),
        noise_sd=0.05,
        bursts_per_day=0.0,
        flash_crowd=FlashCrowd(at_hour=13.5, magnitude=0.4, ramp_s=2400.0, fall_s=3600.0),
        deploy_drop=None,
    )
    trace = GeneratedTrace(settings, seed)
    length_s = min(DURATION_S if duration_s is None else duration_s, (24.0 - _FROM_HOUR) / 24.0 * _DAY_S)
    return sliced(scaled(trace, scale, seed), _FROM_HOUR / 24.0 * _DAY_S, length_s)


def write_trace(trace: Trace, file: Path) -> int:
    """Write the requests of ``trace`` as CSV, and return how many there are."""
    count = 0
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(("arrival_s", "prompt_tokens", "output_tokens"))
        for batch in trace.batches():
            columns = (batch.arrival_s.round(4).tolist(), batch.prompt_tokens.tolist(), batch.output_tokens.tolist())
            writer.writerows(zip(*columns, strict=True))
            count += len(batch)
    return count
