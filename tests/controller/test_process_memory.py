"""Is the memory that is told that of this process, and not that of the one which started it?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from controller.adapters.process_memory import peak_rss_mb

ROOT = Path(__file__).parent.parent.parent


def peak_told_after(*lines: str) -> float:
    script = "\n".join(("from controller.adapters.process_memory import peak_rss_mb", *lines, "print(peak_rss_mb())"))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    return float(ended.stdout)


def test_the_peak_holds_what_was_taken_and_given_back() -> None:
    assert peak_told_after("taken = b'1' * (200 * 2**20)", "del taken") > 200.0


def test_a_program_does_not_answer_for_the_one_that_started_it() -> None:
    taken = np.ones(300 * 2**20 // 8)
    assert taken.nbytes / 2**20 < peak_rss_mb()
    assert 1.0 < peak_told_after() < 150.0
