"""How fine are the bins of the histograms of a run?"""

from __future__ import annotations

TTFT, TPOT, E2E = range(3)
"""Rows of ``histograms``."""

FINE_BITS, COARSE_BITS = 9, 5
"""Bins per octave of a histogram are two to this power: 512 make a bin 0.2 % wide, 32 make it 3.1 %."""
FINE_FIRST, FINE_OCTAVES = -24, 48
COARSE_FIRST, COARSE_OCTAVES = -10, 24
"""Powers of two of seconds: 60 ns to 194 days, 1 ms to 4.5 hours. What lies beyond counts in the outermost bin."""
