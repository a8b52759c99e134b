"""How long are prompts and outputs: named joint distributions of token counts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np

from controller.errors import BadInput
from simulations.trace import Float64, Int32

_MOST_TOKENS = 1 << 20
_MOMENT_DRAWS = 1 << 16


_SIGMA = 0.8
_CUT_OFF = 16.0
"""Of a ``lognormal:`` shape: spread where none is given, about that of chat, and cut-off as a multiple of the mean."""

SYNTAX = "a name, fixed:PROMPT/OUTPUT, lognormal:PROMPT/OUTPUT[/SIGMA] or a file of requests"


class Lengths(Protocol):
    """A joint distribution of prompt and output tokens."""

    @property
    def name(self) -> str:
        """What users call it."""
        ...

    @property
    def prompt_mean(self) -> float:
        """Mean tokens of a prompt."""
        ...

    @property
    def output_mean(self) -> float:
        """Mean tokens of an output."""
        ...

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Float64, Float64]:
        """Return ``count`` prompt and output lengths, not yet rounded (``whole_tokens`` does that)."""
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class TokenShape:
    """Prompt and output tokens of a request: two correlated lognormals, cut off at what an engine accepts.

    Attributes:
        name: What users call it.
        prompt_mean, output_mean: Means *after* the cut-off.
        prompt_sigma, output_sigma: Standard deviations of the logarithms; 0 makes every request alike.
        prompt_max, output_max: The cut-offs.
        correlation: Between the two logarithms.
    """

    name: str
    prompt_mean: float
    output_mean: float
    prompt_sigma: float
    output_sigma: float
    prompt_max: int
    output_max: int
    correlation: float = 0.0

    def __post_init__(self) -> None:
        if not (1 <= self.prompt_mean < self.prompt_max and 1 <= self.output_mean < self.output_max):
            raise ValueError(f"token shape {self.name}: means must lie between 1 and their cut-off")
        if not (self.prompt_sigma >= 0 and self.output_sigma >= 0 and -1 <= self.correlation <= 1):
            raise ValueError(f"token shape {self.name}: sigmas must be >= 0 and the correlation within [-1, 1]")

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Float64, Float64]:
        """Return ``count`` prompt and output lengths, not yet rounded (``whole_tokens`` does that)."""
        if not (self.prompt_sigma or self.output_sigma):
            return np.full(count, float(self.prompt_mean)), np.full(count, float(self.output_mean))
        first, second = rng.standard_normal((2, count))
        second = self.correlation * first + math.sqrt(1 - self.correlation**2) * second
        prompt_mu = _log_median(self.prompt_mean, self.prompt_sigma, self.prompt_max)
        output_mu = _log_median(self.output_mean, self.output_sigma, self.output_max)
        prompt = np.minimum(np.exp(prompt_mu + self.prompt_sigma * first), self.prompt_max)
        return prompt, np.minimum(np.exp(output_mu + self.output_sigma * second), self.output_max)


@dataclass(frozen=True, slots=True, eq=False)
class EmpiricalShape:
    """The lengths of recorded requests, drawn with replacement, prompt and output of one request together.

    Attributes:
        name: What it is called: the file's name.
        prompt_tokens, output_tokens: ``int32[N]`` of N requests.
    """

    name: str
    prompt_tokens: Int32
    output_tokens: Int32
    prompt_mean: float = field(init=False)
    output_mean: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt_mean", float(self.prompt_tokens.mean()))
        object.__setattr__(self, "output_mean", float(self.output_tokens.mean()))

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Float64, Float64]:
        """Return ``count`` prompt and output lengths."""
        rows = rng.integers(0, len(self.prompt_tokens), count)
        return self.prompt_tokens[rows].astype(np.float64), self.output_tokens[rows].astype(np.float64)


# chat and code: means of the Azure 2023 conversation and code traces (1155/211 and 2048/28), chat also with their
# spread and near-absent correlation. The others are round figures for a kind of use, not measurements.
TOKEN_SHAPES: dict[str, TokenShape] = {
    shape.name: shape
    for shape in (
        TokenShape("chat", 1155, 211, 0.8, 0.68, 16_384, 2_048, 0.1),
        TokenShape("code", 2048, 28, 0.8, 0.9, 16_384, 1_024, 0.1),
        TokenShape("reasoning", 1000, 4000, 0.8, 0.7, 16_384, 32_768, 0.3),
        TokenShape("balanced", 1000, 1000, 0.5, 0.5, 16_384, 16_384, 0.2),
        TokenShape("long-context", 16_000, 400, 0.8, 0.8, 120_000, 4_096, 0.1),
        TokenShape("rag", 5_000, 250, 0.4, 0.7, 32_768, 2_048, 0.0),
        TokenShape("agent", 12_000, 180, 0.7, 1.0, 120_000, 4_096, 0.0),
    )
}


def token_shape_named(name: str) -> TokenShape:
    """Return the shape called ``name``, ``fixed:PROMPT/OUTPUT`` or ``lognormal:PROMPT/OUTPUT[/SIGMA]``.

    >>> token_shape_named("fixed:4000/1000").prompt_mean
    4000.0

    Raises:
        BadInput: If there is none, naming those there are.
    """
    kind, colon, figures = name.partition(":")
    if colon and kind in ("fixed", "lognormal"):
        return _described(name, kind, figures)
    if name not in TOKEN_SHAPES:
        known = f"known: {', '.join(TOKEN_SHAPES)}; or {SYNTAX.removeprefix('a name, ')}"
        raise BadInput(f"no token shape is called {name!r}", "token shape", known)
    return TOKEN_SHAPES[name]


def _described(name: str, kind: str, figures: str) -> TokenShape:
    try:
        numbers = [float(part) for part in figures.split("/")]
    except ValueError:
        numbers = []
    if not (len(numbers) == 2 or (kind == "lognormal" and len(numbers) == 3)):
        raise BadInput(f"cannot read the token shape {name!r}", "token shape", f"write {SYNTAX}")
    prompt, output, sigma = (*numbers, 0.0 if kind == "fixed" else _SIGMA)[:3]
    if not (1 <= prompt < _MOST_TOKENS and 1 <= output < _MOST_TOKENS and 0 <= sigma <= 3):
        what = f"token shape {name!r}: means must be from 1 to {_MOST_TOKENS - 1:,} tokens, the sigma from 0 to 3"
        raise BadInput(what, "token shape", f"write {SYNTAX}")
    prompt_max, output_max = (min(math.ceil(mean * _CUT_OFF), _MOST_TOKENS) for mean in (prompt, output))
    return TokenShape(name, prompt, output, sigma, sigma, prompt_max, output_max)


def whole_tokens(lengths: Float64) -> Int32:
    """Return lengths as whole token counts of at least 1."""
    return np.rint(np.clip(lengths, 1, _MOST_TOKENS)).astype(np.int32)


@lru_cache(maxsize=64)
def covariance(shape: Lengths) -> tuple[float, float, float]:
    """Return variance of the prompt length, of the output length, and their covariance, from a large fixed draw."""
    drawn = np.cov(np.stack(shape.draw(np.random.Generator(np.random.Philox(key=0)), _MOMENT_DRAWS)))
    return float(drawn[0, 0]), float(drawn[1, 1]), float(drawn[0, 1])


@lru_cache(maxsize=256)
def _log_median(mean: float, sigma: float, most: int) -> float:
    """Return mu such that a lognormal(mu, sigma) cut off at ``most`` has ``mean``, by bisection.

    E[min(X, m)] = exp(mu + sigma^2 / 2) * Phi((ln m - mu) / sigma - sigma) + m * (1 - Phi((ln m - mu) / sigma)).
    """
    if sigma == 0:
        return math.log(mean)
    low, high = math.log(mean) - sigma * sigma, math.log(most) + 4 * sigma
    for _ in range(60):
        mu = (low + high) / 2
        z = (math.log(most) - mu) / sigma
        cut_mean = math.exp(mu + sigma * sigma / 2) * _normal_cdf(z - sigma) + most * (1 - _normal_cdf(z))
        low, high = (mu, high) if cut_mean < mean else (low, mu)
    return (low + high) / 2


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))
