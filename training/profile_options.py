"""What do the options of a fit say about the engine: its limits, and the profile that the fit starts from?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from controller.errors import BadInput
from policies.engine_profile import EngineProfile
from simulations.profile_files import profile_of
from training.capacity_fit import rough_start
from training.measurements import Measurement

AUTO = "auto"
_META_SUFFIX = "_meta.json"
_NULL_BLOCKS = 1  # vLLM keeps one block for itself


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What was said of the engine; None where nothing was."""

    like: str | None = None
    name: str | None = None
    model: str | None = None
    gpu: str | None = None
    gpus: int | None = None
    kv_cache_tokens: int | None = None
    max_running: int | None = None
    max_batched_tokens: str | None = None
    usd_per_gpu_hour: float | None = None


def start_of(options: EngineOptions, measurements: Sequence[Measurement], told: Mapping[str, Any]) -> EngineProfile:
    """Return the profile that a fit starts from, with the engine's limits.

    An option wins over what the result files tell, and that over ``--like``.

    Raises:
        BadInput: If a limit that a fit needs is not known.
    """
    said = {key: value for key, value in _said(options).items() if value is not None}
    known = dict(told) | said
    if options.like is not None:
        like = profile_of(options.like, "--like")
        known.setdefault("name", f"{like.name}-fitted")
        return checked_profile(like.model_dump() | known)
    if "kv_cache_tokens" not in known:
        what = "how many tokens fit the engine's KV cache is not known"
        remedy = "vLLM logs it at its start (GPU KV cache size); or give --like PROFILE"
        raise BadInput(what, "--kv-cache-tokens", remedy)
    blank = {"name": "fitted", "model": "unknown", "gpu": "unknown", "gpus": 1, "usd_per_gpu_hour": 0.0}
    times = {"decode_base_s": 1.0, "decode_per_sequence_s": 0.0, "decode_per_kv_token_s": 0.0}
    times |= {"prefill_base_s": 0.0, "prefill_per_token_s": 1.0, "prefill_per_token2_s": 0.0}
    return rough_start(checked_profile({"source": "measured", **blank, **times, **known}), measurements)


def tries_budgets(options: EngineOptions, told: Mapping[str, Any]) -> bool:
    """Return whether the budget of a step is to be found by trying."""
    asked = options.max_batched_tokens
    return asked == AUTO or (asked is None and options.like is None and "max_batched_tokens" not in told)


def told_by(paths: Sequence[Path]) -> dict[str, Any]:
    """Return what ``NAME_meta.json``, beside the request log ``NAME_requests.jsonl``, says of the engine."""
    told: dict[str, Any] = {}
    for path in paths:
        meta = path.with_name(path.name.removesuffix("_requests.jsonl") + _META_SUFFIX)
        if path.name.endswith("_requests.jsonl") and meta.is_file():
            try:
                told |= _from_meta(json.loads(meta.read_text()))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise BadInput(f"cannot be read: {error}", str(meta), "mend it, or move it away") from None
    return told


def _from_meta(meta: Mapping[str, Any]) -> dict[str, Any]:
    engine, cache = meta["engine_kwargs"], meta.get("kv_cache") or {}
    told = {
        "model": meta["model"],
        "gpus": engine.get("tensor_parallel_size"),
        "max_running": engine.get("max_num_seqs"),
        "max_batched_tokens": engine.get("max_num_batched_tokens"),
        "block_tokens": cache.get("block_size"),
        "gpu": (meta.get("hardware") or {}).get("device_name"),
    }
    if cache.get("num_gpu_blocks") and cache.get("block_size"):
        told["kv_cache_tokens"] = (cache["num_gpu_blocks"] - _NULL_BLOCKS) * cache["block_size"]
    return {key: value for key, value in told.items() if value is not None}


def _said(options: EngineOptions) -> dict[str, Any]:
    budget = options.max_batched_tokens
    if budget not in (None, AUTO) and not (budget or "").isdigit():
        raise BadInput(f"{budget!r} is neither a number nor {AUTO}", "--max-batched-tokens", "give for example 8192")
    return {
        "name": options.name,
        "model": options.model,
        "gpu": options.gpu,
        "gpus": options.gpus,
        "kv_cache_tokens": options.kv_cache_tokens,
        "max_running": options.max_running,
        "max_batched_tokens": None if budget in (None, AUTO) else int(budget or 0),
        "usd_per_gpu_hour": options.usd_per_gpu_hour,
    }


def checked_profile(values: Mapping[str, Any]) -> EngineProfile:
    """Return the profile that ``values`` make.

    Raises:
        BadInput: If they cannot be one; it names the option that would say otherwise.
    """
    try:
        profile = EngineProfile.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        raise BadInput(f"{first['msg'][:1].lower()}{first['msg'][1:]}", f"--{key.replace('_', '-')}") from None
    if profile.max_running > profile.max_batched_tokens:
        what = f"{profile.max_running} sequences do not fit a step of {profile.max_batched_tokens} tokens"
        raise BadInput(what, "--max-running", "give less, or more --max-batched-tokens")
    return profile
