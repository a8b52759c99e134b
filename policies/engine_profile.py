"""How fast is one engine: step-time coefficients, KV capacity and batch limits of a model on a GPU type."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EngineProfile(BaseModel):
    """Timing and limits of one replica with continuous batching and chunked prefill.

    A step that decodes ``n`` sequences holding ``k`` KV tokens and prefills chunks of ``c_i`` prompt tokens, each
    after ``x_i`` tokens of the same prompt that are already in the cache, takes

        max(decode_base_s if n, prefill_base_s if any c_i)
          + decode_per_sequence_s * n + decode_per_kv_token_s * k
          + sum_i(prefill_per_token_s * c_i + prefill_per_token2_s * ((x_i + c_i)^2 - x_i^2))

    so that a prompt costs the same attention however it is cut into chunks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(min_length=1, description="Name on the command line, model-gpu-tpN.")
    model: str = Field(description="Served model.")
    gpu: str = Field(description="GPU type.")
    gpus: int = Field(gt=0, description="GPUs per replica (tensor parallel size).")
    decode_base_s: float = Field(gt=0, description="Time of a decode step before any sequence is counted, in seconds.")
    decode_per_sequence_s: float = Field(ge=0, description="Added per running sequence, in seconds.")
    decode_per_kv_token_s: float = Field(ge=0, description="Added per token held in the KV cache, in seconds.")
    prefill_base_s: float = Field(ge=0, description="Time of a prefill step before any token is counted, in seconds.")
    prefill_per_token_s: float = Field(gt=0, description="Added per prompt token, in seconds.")
    prefill_per_token2_s: float = Field(ge=0, description="Added per squared prompt token (attention), in seconds.")
    kv_cache_tokens: int = Field(gt=0, description="Tokens that fit the KV cache of a replica.")
    max_running: int = Field(256, gt=0, description="Most sequences in a batch (vLLM's max_num_seqs).")
    max_batched_tokens: int = Field(
        2048, gt=0, description="Most tokens in a step, decode and prefill together (vLLM's max_num_batched_tokens)."
    )
    block_tokens: int = Field(16, gt=0, description="Tokens per KV block.")
    kv_bytes_per_token: int = Field(
        0,
        ge=0,
        description="Bytes of keys and values per token, all GPUs together: what a prefill replica sends to a decode "
        "replica. 0 for not known; prefill pools need it.",
    )
    prefix_cache: Literal["off", "lru", "lfu"] = Field(
        "lru",
        description="Which idle prefix goes first when blocks are wanted; off keeps none. Matters only where prompts "
        "come with hashes. vLLM and SGLang use lru by default.",
    )
    usd_per_gpu_hour: float = Field(ge=0, description="Price of a GPU hour in US dollars, an assumption to override.")
    source: str = Field(description="Where the figures come from.")
