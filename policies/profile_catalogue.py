"""Which engines come with their figures: models on GPU types, by tensor parallelism.

Step times are fits to a kernel-level latency model of vLLM (NVIDIA AIConfigurator 0.12, Apache-2.0; database 0.14.0
for the A100, 0.24.0 for the others): decode milliseconds = a + b * sequences + c * KV tokens over batches of 1 to 256
and contexts of 512 to 8,192 tokens (mean error 1 to 3 %), prefill milliseconds = p + q * tokens + r * tokens^2 over
prompts of 128 to 16,384 tokens (mean error 1 to 8 %). The grid behind the fits is bf16: reading the weights once per
decode step (141 GB / 2 GPUs = 70.5 GB at a B200's 8 TB/s = 8.8 ms) is 60 to 70 % of the 70B decode bases, the B200's
included. Real engines differ from this model under mixed load, in which prompts are prefilled while others decode
(docs/validation.md). Where there are measurements, profiles are fits to them:

* Qwen3-32B on H100: 18 loads each of vLLM 0.12 (8, 32 and 128 requests in flight, 1,024 or 4,096 prompt and 128 to
  1,024 output tokens); the model's TPOT was 15 to 24 % too low;
* Llama-3.1-70B in fp8: 9 loads each of vLLM of October 2025 (InferenceMAX: 4, 16 and 64 in flight, up to 1,024 or
  8,192 prompt and output tokens, asynchronous scheduling); the model's TTFT was 13 to 27 % too low;
* Qwen3-32B on two RTX PRO 6000, whose tensor parallelism over PCIe the model takes for faster than it is (TPOT 28 %
  too low): 180 requests of a recorded run.

KV cache per replica, the arithmetic of vLLM's start-up: GPUs x (memory x 0.9 - 4 GB for activations, CUDA graphs and
the context) - weights, divided by bytes per token:

* bytes per token = 2 (K, V) x layers x 8 KV heads x 128 x 2 bytes: 80 layers 327,680 B, 64 layers (Qwen3-32B)
  262,144 B, 32 layers 131,072 B; half of that with keys and values in fp8, as the measured engines of Llama-3.1-70B on
  H200 have them (loads that fill the cache wait as long as they did, which with 2 bytes they would not; those on H100
  wait as with 2 bytes);
* weights in bf16: 70B 141 GB, 32B 65.5 GB, 8B 16 GB; 70B with layers in fp8, embedding and head in bf16: 72.7 GB;
* memory as the driver reports it: A100 85.9 GB, H100 85.5 GB, H200 150.8 GB, B200 192.3 GB, L40S 48.3 GB, RTX PRO
  6000 102.6 GB.

Example, 70B on four A100: 4 x (85.9 x 0.9 - 4) - 141 = 152.2 GB, / 327,680 B = 464,600 tokens.

Batch limits are vLLM's own defaults for its API server (``EngineArgs.get_batch_defaults``): 8,192 tokens and 1,024
sequences on GPUs of 70 GiB and more except the A100, which like smaller GPUs gets 2,048 tokens and 256 sequences.

Prices per GPU hour are assumptions of the order of 2026 on-demand list prices; override them with your own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from policies.engine_profile import EngineProfile

_MODELLED = "AIConfigurator 0.12 step-latency model, least-squares fit; KV cache from memory arithmetic"
_MEASURED = "fit to measured loads of vLLM 0.12 (AIConfigurator's silicon table); KV cache from memory arithmetic"
_RECORDED = "fit to a recorded run of vLLM 0.19 over PCIe; KV cache from memory arithmetic"
_SWEPT = "fit to measured loads of vLLM, October 2025 (InferenceMAX); KV cache from memory arithmetic"
_SWEPT_FP8_KV = "fit to measured loads of vLLM, October 2025 (InferenceMAX); fp8 KV cache from memory arithmetic"
_BATCHED_TOKENS = {_MEASURED: 4096, _RECORDED: 2048}
"""Budgets of a step that the measured engines had: that of the run, and the one that explains the loads best."""
_GPU_MEMORY_SHARE = 0.9  # vLLM's gpu_memory_utilization
_BYTES_PER_KV_VALUE, _BYTES_PER_FP8_VALUE = 2, 1
_NOT_FOR_KV_BYTES = 4e9  # activations, CUDA graphs and context per GPU, an allowance


@dataclass(frozen=True, slots=True)
class _Gpu:
    memory_bytes: float
    max_batched_tokens: int
    max_running: int
    usd_per_hour: float


@dataclass(frozen=True, slots=True)
class _Model:
    name: str
    weight_bytes: float
    kv_values_per_token: int


_GPUS = {
    "a100": _Gpu(85.9e9, 2048, 256, 2.00),
    "h100": _Gpu(85.5e9, 8192, 1024, 3.00),
    "h200": _Gpu(150.8e9, 8192, 1024, 3.80),
    "b200": _Gpu(192.3e9, 8192, 1024, 5.50),
    "l40s": _Gpu(48.3e9, 2048, 256, 1.10),
    "rtxpro6000": _Gpu(102.6e9, 8192, 1024, 1.80),
}
_MODELS = {
    "llama-3.1-70b": _Model("meta-llama/Llama-3.1-70B-Instruct", 141e9, 2 * 80 * 8 * 128),
    "llama-3.1-70b-fp8": _Model("meta-llama/Llama-3.1-70B-Instruct", 72.7e9, 2 * 80 * 8 * 128),
    "qwen3-32b": _Model("Qwen/Qwen3-32B", 65.5e9, 2 * 64 * 8 * 128),
    "llama-3.1-8b": _Model("meta-llama/Llama-3.1-8B-Instruct", 16e9, 2 * 32 * 8 * 128),
}


@dataclass(frozen=True, slots=True)
class _Fit:
    """One row: decode base and per sequence in ms, per KV token in us; prefill base in ms, per token us, squared ns."""

    model: str
    gpu: str
    gpus: int
    decode_base_ms: float
    decode_per_sequence_ms: float
    decode_per_kv_token_us: float
    prefill_base_ms: float
    prefill_per_token_us: float
    prefill_per_token2_ns: float
    source: str = _MODELLED

    def profile(self) -> EngineProfile:
        """Return the profile in seconds, with the limits of its model and GPU."""
        model, gpu = _MODELS[self.model], _GPUS[self.gpu]
        bytes_per_value = _BYTES_PER_FP8_VALUE if self.source == _SWEPT_FP8_KV else _BYTES_PER_KV_VALUE
        bytes_per_token = model.kv_values_per_token * bytes_per_value
        for_kv_bytes = self.gpus * (gpu.memory_bytes * _GPU_MEMORY_SHARE - _NOT_FOR_KV_BYTES) - model.weight_bytes
        return EngineProfile(
            name=f"{self.model}-{self.gpu}-tp{self.gpus}",
            model=model.name,
            gpu=self.gpu,
            gpus=self.gpus,
            decode_base_s=self.decode_base_ms * 1e-3,
            decode_per_sequence_s=self.decode_per_sequence_ms * 1e-3,
            decode_per_kv_token_s=self.decode_per_kv_token_us * 1e-6,
            prefill_base_s=self.prefill_base_ms * 1e-3,
            prefill_per_token_s=self.prefill_per_token_us * 1e-6,
            prefill_per_token2_s=self.prefill_per_token2_ns * 1e-9,
            kv_cache_tokens=int(for_kv_bytes / bytes_per_token),
            max_running=gpu.max_running,
            max_batched_tokens=_BATCHED_TOKENS.get(self.source, gpu.max_batched_tokens),
            kv_bytes_per_token=bytes_per_token,
            usd_per_gpu_hour=gpu.usd_per_hour,
            source=self.source,
        )


_FITS = (
    _Fit("llama-3.1-70b", "a100", 4, 27.815, 0.094538, 0.057352, 17.773, 156.70, 1.2469),
    _Fit("llama-3.1-70b", "b200", 2, 14.260, 0.031441, 0.023267, 12.643, 46.450, 1.1315),
    _Fit("llama-3.1-70b", "h100", 4, 15.143, 0.031495, 0.028507, 11.367, 54.950, 1.0241),
    _Fit("llama-3.1-70b", "h100", 8, 9.9254, 0.023135, 0.014477, 8.3634, 36.970, 0.33682),
    _Fit("llama-3.1-70b", "h200", 4, 12.230, 0.031472, 0.017730, 8.6038, 55.008, 1.1858),
    _Fit("llama-3.1-70b-fp8", "h100", 2, 16.805, 0.032105, 0.056804, 12.134, 86.546, 0.40224, _SWEPT),
    _Fit("llama-3.1-70b-fp8", "h100", 4, 11.134, 0.03618, 0.031116, 21.974, 49.721, 0.17799, _SWEPT),
    _Fit("llama-3.1-70b-fp8", "h100", 8, 9.0399, 0.03582, 0.016127, 32.27, 30.443, 0.048367, _SWEPT),
    _Fit("llama-3.1-70b-fp8", "h200", 1, 20.623, 0.036011, 0.068577, 15.672, 148, 0.88913, _SWEPT_FP8_KV),
    _Fit("llama-3.1-70b-fp8", "h200", 2, 13.36, 0.028363, 0.034588, 12.114, 86.795, 0.39307, _SWEPT_FP8_KV),
    _Fit("llama-3.1-70b-fp8", "h200", 4, 9.2909, 0.01943, 0.021931, 29.062, 49.261, 0.29232, _SWEPT_FP8_KV),
    _Fit("llama-3.1-70b-fp8", "h200", 8, 7.7969, 0.018894, 0.01174, 38.858, 29.621, 0.051536, _SWEPT_FP8_KV),
    _Fit("llama-3.1-8b", "a100", 1, 11.641, 0.029658, 0.082284, 7.7417, 54.621, 1.5318),
    _Fit("llama-3.1-8b", "h100", 1, 6.3555, 0.011003, 0.043202, 4.7304, 16.647, 0.69303),
    _Fit("llama-3.1-8b", "h200", 1, 4.9107, 0.010939, 0.031220, 3.2947, 17.487, 0.64499),
    _Fit("llama-3.1-8b", "l40s", 1, 22.023, 0.034555, 0.20222, 17.207, 51.169, 3.2512),
    _Fit("qwen3-32b", "a100", 2, 24.877, 0.076231, 0.089651, 18.984, 125.40, 2.9528),
    _Fit("qwen3-32b", "a100", 4, 14.521, 0.043234, 0.046393, 11.093, 75.952, 1.1677),
    _Fit("qwen3-32b", "h100", 2, 14.413, 0.097186, 0.035542, 10.449, 36.739, 6.7938, _MEASURED),
    _Fit("qwen3-32b", "h100", 4, 9.6388, 0.061651, 0.019574, 24.393, 28.890, 0.64138, _MEASURED),
    _Fit("qwen3-32b", "h100", 8, 7.2392, 0.060036, 0.0061460, 18.206, 20.652, 0.13994, _MEASURED),
    _Fit("qwen3-32b", "h200", 1, 19.096, 0.033199, 0.059485, 11.311, 77.812, 2.4666),
    _Fit("qwen3-32b", "h200", 2, 10.754, 0.024770, 0.029634, 8.9176, 42.822, 1.4325),
    _Fit("qwen3-32b", "rtxpro6000", 2, 20.743, 0.027880, 0.25304, 15.350, 151.17, 10.408, _RECORDED),
)

CATALOGUE: Mapping[str, EngineProfile] = MappingProxyType(
    {profile.name: profile for profile in (fit.profile() for fit in _FITS)}
)


def profile_named(name: str) -> EngineProfile:
    """Return the catalogue's profile of that name.

    Raises:
        ValueError: If there is none; the message lists those that there are.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise ValueError(f"unknown engine profile {name!r}; known: {', '.join(sorted(CATALOGUE))}") from None
