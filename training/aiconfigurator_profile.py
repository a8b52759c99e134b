"""What profile does NVIDIA AIConfigurator's kernel-level model give an engine that was never run?

It is the optional extra ``profiles``. Its estimates of single steps, over a grid of batches, contexts and prompt
lengths, are fitted by least squares of relative errors, as the profiles of the catalogue are.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from controller.errors import BadInput
from forecasting.series import FloatArray
from policies.engine_profile import EngineProfile
from training.profile_options import checked_profile

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CONTEXTS = (512, 2048, 8192)
PROMPTS = (128, 256, 512, 1024, 2048, 4096, 8192, 16_384)

Estimate = Callable[[str, int, int], tuple[float, float, str]]
"""Mode (``static_gen`` or ``static_ctx``), batch and context to TTFT ms, TPOT ms and the database's version."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The engine that a profile is wanted of; names are AIConfigurator's."""

    model: str
    system: str
    gpus: int
    kv_cache_tokens: int
    max_running: int
    max_batched_tokens: int
    usd_per_gpu_hour: float = 0.0
    weights: str | None = None


@dataclass(frozen=True, slots=True)
class ModelledProfile:
    """A profile, and the mean errors of its two formulas against the grid that they were fitted to."""

    profile: EngineProfile
    decode_error: float
    prefill_error: float


def modelled_profile(
    wanted: Wanted, show: Callable[[float], None], estimate: Estimate | None = None
) -> ModelledProfile:
    """Return the profile of the wanted engine.

    Args:
        wanted: The engine.
        show: Told the share of the grid that is done.
        estimate: Asked for a step's time; AIConfigurator if not given.

    Raises:
        BadInput: If the extra is not installed, or it does not know the model or the system.
    """
    asked = estimate or _aiconfigurator(wanted)
    steps = len(BATCHES) * len(CONTEXTS) + len(PROMPTS)
    decode, prefill, version = [], [], ""
    for batch in BATCHES:
        for context in CONTEXTS:
            decode.append((1.0, batch, batch * context, asked("static_gen", batch, context)[1]))
            show(len(decode) / steps)
    for tokens in PROMPTS:
        ttft_ms, _, version = asked("static_ctx", 1, tokens)
        prefill.append((1.0, tokens, tokens**2, ttft_ms))
        show((len(decode) + len(prefill)) / steps)
    (base, per_sequence, per_kv_token), decode_error = _least_squares(np.array(decode))
    (prompt_base, per_token, per_token2), prefill_error = _least_squares(np.array(prefill))
    gpu = wanted.system.removesuffix("_sxm")
    profile = checked_profile(
        {
            "name": f"{wanted.model.rpartition('/')[2].lower()}-{gpu}-tp{wanted.gpus}",
            "model": wanted.model,
            "gpu": gpu,
            "gpus": wanted.gpus,
            "decode_base_s": base * 1e-3,
            "decode_per_sequence_s": per_sequence * 1e-3,
            "decode_per_kv_token_s": per_kv_token * 1e-3,
            "prefill_base_s": prompt_base * 1e-3,
            "prefill_per_token_s": per_token * 1e-3,
            "prefill_per_token2_s": per_token2 * 1e-3,
            "kv_cache_tokens": wanted.kv_cache_tokens,
            "max_running": wanted.max_running,
            "max_batched_tokens": wanted.max_batched_tokens,
            "usd_per_gpu_hour": wanted.usd_per_gpu_hour,
            "source": f"AIConfigurator step-latency model of vLLM, database {version}, least-squares fit",
        }
    )
    return ModelledProfile(profile, decode_error, prefill_error)


def _least_squares(rows: FloatArray) -> tuple[FloatArray, float]:
    """Return the three coefficients, none negative, that fit the last column best, and the mean relative error."""
    from scipy.optimize import nnls

    relative = rows[:, :3] / rows[:, 3:]
    scale = relative.max(axis=0)
    found, _ = nnls(relative / scale, np.ones(len(rows)))
    values = found / scale
    return values, float(np.abs(relative @ values - 1.0).mean())


def _aiconfigurator(wanted: Wanted) -> Estimate:
    try:
        with _quiet():
            from aiconfigurator.cli.api import cli_estimate
    except ImportError:
        what = "AIConfigurator is not installed"
        raise BadInput(what, "foresail profile from-aiconfigurator", "pip install 'foresail[profiles]'") from None
    precision = {} if wanted.weights is None else {"gemm_quant_mode": wanted.weights}

    def estimate(mode: str, batch: int, context: int) -> tuple[float, float, str]:
        try:
            with _quiet():
                answer: Any = cli_estimate(
                    wanted.model, wanted.system, mode=mode, backend_name="vllm", isl=context, osl=2, batch_size=batch,
                    tp_size=wanted.gpus, **precision,
                )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - whatever it raises means that it cannot model this engine
            said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            what = f"AIConfigurator cannot model {wanted.model} on {wanted.system}: {said}"
            raise BadInput(what, "--model and --system", "see `aiconfigurator cli support` for what it knows") from None
        return float(answer.ttft), float(answer.tpot), str(answer.backend_version)

    return estimate


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep its logs and warnings, several a call, out of the output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
