"""Do the catalogue's profiles answer as the engines did that were measured, on loads that they were not fitted to?

Run with ``-s`` to see the errors; docs/validation.md keeps them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from policies.engine_profile import EngineProfile
from policies.profile_catalogue import profile_named
from simulations.engine_runs import MEASURES
from training.capacity_fit import Part
from training.fit_errors import error_of
from training.measurements import Measurement
from training.silicon_rows import read_silicon

AIM = {"ttft_s": 0.15, "tpot_s": 0.07, "e2e_s": 0.07}
"""Mean absolute error of the means of loads."""
AS_TOLD, AT_MOST_AS_TOLD = (1.0, 1.0), (0.8, 1.0)
LLAMA, QWEN = "meta-llama/Llama-3.1-70B", "Qwen/Qwen3-32B"
ENGINES = [
    *((f"llama-3.1-70b-fp8-h100-tp{gpus}", LLAMA, AT_MOST_AS_TOLD, (8, 32)) for gpus in (2, 4, 8)),
    *((f"llama-3.1-70b-fp8-h200-tp{gpus}", LLAMA, AT_MOST_AS_TOLD, (8, 32)) for gpus in (1, 2, 4, 8)),
    *((f"qwen3-32b-h100-tp{gpus}", QWEN, AS_TOLD, (16, 64)) for gpus in (2, 4, 8)),
]


def measured(folder: Path, profile: EngineProfile, model: str, lengths: tuple[float, float]) -> list[Measurement]:
    tables = folder.rglob("measured_h100_h200.parquet")
    engines = read_silicon(next(tables), lengths).items()
    wanted = (model, profile.gpu, profile.gpus, "vllm", "fp8" if "-fp8-" in profile.name else "")
    return next(loads for one, loads in engines if (one.model, one.gpu, one.gpus, one.backend, one.precision) == wanted)


def errors(profile: EngineProfile, loads: Sequence[Measurement], measure: str) -> list[float]:
    parts = [Part(one, np.zeros(len(one), np.bool_), one.replay(profile)) for one in loads]
    return [error for part in parts if (error := error_of(part, measure, "mean")) is not None]


@pytest.mark.parametrize(("name", "model", "lengths", "held_out"), ENGINES)
def test_a_measured_engine_is_met_on_loads_that_were_not_fitted(
    recorded_traces: Path, name: str, model: str, lengths: tuple[float, float], held_out: tuple[int, ...]
) -> None:
    profile = profile_named(name)
    loads = [one for one in measured(recorded_traces, profile, model, lengths) if one.concurrency in held_out]
    assert len(loads) in (6, 12)
    absolute = {measure: float(np.abs(errors(profile, loads, measure)).mean()) for measure in MEASURES}
    print(name, *(f"{measure} {error:.1%}" for measure, error in absolute.items()))  # noqa: T201 - what -s is for
    assert all(absolute[measure] < AIM[measure] for measure in MEASURES)


@pytest.mark.parametrize(
    ("name", "other_share"), [("llama-3.1-70b-fp8-h200-tp1", 0.5), ("llama-3.1-70b-fp8-h100-tp2", 2.0)]
)
def test_loads_that_fill_the_kv_cache_wait_for_it_as_long_as_they_did(
    recorded_traces: Path, name: str, other_share: float
) -> None:
    profile = profile_named(name)
    loads = [one for one in measured(recorded_traces, profile, LLAMA, AT_MOST_AS_TOLD) if one.concurrency == 64]
    full = [one for one in loads if one.name != "1024+1024 at 64"]
    assert np.abs(errors(profile, full, "ttft_s")).max() < 0.2
    other = profile.model_copy(update={"kv_cache_tokens": int(profile.kv_cache_tokens * other_share)})
    assert np.abs(errors(other, full, "ttft_s")).min() > 0.5  # keys and values of the other width
