"""What is known of each model over a window: mean lengths, prefix cache hits, share within the objective."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from controller.adapters.fleet_answers import Answers
from controller.adapters.fleet_queries import Part, limit_of, subject_labels
from controller.adapters.metric_names import Source
from controller.adapters.prometheus_http import Row
from controller.adapters.prometheus_settings import PrometheusSettings
from controller.adapters.series_rows import keys_of, labels_of, values_of
from controller.attainment import joint_share, share_within
from policies.fleet import ServiceLevel
from policies.slo import ServiceObjective


@dataclass(frozen=True, slots=True)
class Subjects:
    """Which model a series is about.

    Attributes:
        settings: Labels.
        by_pool: Model by the name of its pool, in the ways in which gateways write it.
    """

    settings: PrometheusSettings
    by_pool: Mapping[str, str]

    def model_of(self, source: Source, subject: Sequence[str]) -> str:
        """Return the model that the values of ``subject_labels`` name; empty when they name none."""
        if source.names.subject is None:
            model, pool = subject
            return model or self.by_pool.get(pool, "")
        return subject[0] if source.names.subject.names == "model" else self.by_pool.get(subject[0], "")

    def summed(self, source: Source, rows: Sequence[Row] | None) -> dict[str, float]:
        """Return the sum of each model's figures; what is impossible is left out."""
        sums: dict[str, float] = {}
        rows = rows or ()
        values = values_of(rows)
        for subject, value in zip(keys_of(rows, subject_labels(source, self.settings)), values.tolist(), strict=True):
            model = self.model_of(source, subject)
            if model and 0 <= value < math.inf:
                sums[model] = sums.get(model, 0.0) + value
        return sums


@dataclass(frozen=True, slots=True)
class Means:
    """Means per request, by model; a model is absent where none was told in the window."""

    prompt_tokens: Mapping[str, float]
    output_tokens: Mapping[str, float]
    cached_prompt_ratio: Mapping[str, float]


def means(answers: Answers, source: Source, subjects: Subjects) -> Means:
    """Return what one engine or gateway tells of each model's requests in the window.

    Lengths are those of requests that ended or, where only totals are kept, tokens over completions.
    """
    window_s = subjects.settings.means_window_s

    def grown(signal: str, part: Part = "") -> dict[str, float]:
        return subjects.summed(source, answers.of(source, signal, part, window_s))

    finished = grown("finished_requests_total")
    prompts = _ratios(grown("prompt_length_tokens", "sum"), grown("prompt_length_tokens", "count"))
    outputs = _ratios(grown("output_length_tokens", "sum"), grown("output_length_tokens", "count"))
    prompt_total = grown("prompt_tokens_total")
    looked_up = grown("looked_up_prompt_tokens_total") or prompt_total
    cached = _ratios(grown("cached_prompt_tokens_total"), looked_up)
    return Means(
        {**_ratios(prompt_total, finished), **prompts},
        {**_ratios(grown("output_tokens_total"), finished), **outputs},
        {model: min(ratio, 1.0) for model, ratio in cached.items()},
    )


def attainment(
    answers: Answers, source: Source, subjects: Subjects, objective_of: Callable[[str], ServiceObjective]
) -> dict[str, ServiceLevel]:
    """Return each model's service level over its window, as one engine or gateway tells it.

    Those that were given a first token count, and those that failed. How many met both objectives is the least that
    the two histograms allow (``joint_share``). What clients gave up counts neither way: nobody tells why they did.
    """
    levels = {}
    for window_s in sorted({asked.window_s for asked in answers.rows if asked.part == "buckets"}):
        ttft = _buckets(answers, source, subjects, "ttft_seconds", window_s)
        tpot = _buckets(answers, source, subjects, "tpot_seconds", window_s)
        failed = subjects.summed(source, answers.of(source, "failed_requests_total", "", window_s))
        for model in {*ttft, *tpot}:
            objective = objective_of(model)
            if objective.window_s != window_s:
                continue
            shares = [
                share_within(limit_of(signal, objective), counts.get(model, {}))
                for signal, counts in (("ttft_seconds", ttft), ("tpot_seconds", tpot))
            ]
            served = (ttft.get(model) or tpot[model]).get(math.inf, 0.0)
            share = joint_share(*shares)
            within = 0.0 if math.isnan(share) else served * share
            levels[model] = ServiceLevel(window_s, served + failed.get(model, 0.0), within)
    return levels


def _buckets(
    answers: Answers, source: Source, subjects: Subjects, signal: str, window_s: float
) -> dict[str, dict[float, float]]:
    """Return cumulative counts by upper bound in seconds, by model."""
    rows = answers.of(source, signal, "buckets", window_s)
    if not rows:
        return {}
    times = source.matched[signal][0].times
    counts: dict[str, dict[float, float]] = {}
    values: np.ndarray = values_of(rows)
    subject_keys = keys_of(rows, subject_labels(source, subjects.settings))
    for subject, bound, value in zip(subject_keys, labels_of(rows, "le"), values.tolist(), strict=True):
        model = subjects.model_of(source, subject)
        if model and 0 <= value < math.inf:
            of_model = counts.setdefault(model, {})
            upper = float(bound) * times
            of_model[upper] = of_model.get(upper, 0.0) + value
    return counts


def _ratios(sums: Mapping[str, float], counts: Mapping[str, float]) -> dict[str, float]:
    return {model: total / counts[model] for model, total in sums.items() if counts.get(model, 0.0) > 0}
