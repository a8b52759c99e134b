"""Which registered version is meant, what does it hold, and what has it learned from?"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from controller.errors import BadInput
from controller.ports import ModelRegistry, ModelVersion
from forecasting.artifact import ArtifactRefused, load_artifact
from forecasting.forecaster import Forecaster
from training.dataset import split_in_time
from training.history import History
from training.settings import TrainingSettings

TAG_CHARS = 5000
"""Longest value of a tag that every store takes."""

LEARNED_UNTIL, ANY_HISTORY = "learned_until", "*"
"""Tag of a version: until which instant each history by name was learned from; one for all where there are many."""


def find_version(registry: ModelRegistry, name: str, alias_or_version: str) -> ModelVersion | None:
    """Return the version of ``name`` that has this alias or number, None when there is none."""
    return next((v for v in registry.versions(name) if alias_or_version in (v.version, *v.aliases)), None)


def step_of(version: ModelVersion) -> float | None:
    """Return the step in seconds that the version was fitted on, None when its tags do not tell."""
    return _number_in(version, "step_s")


def lead_time_of(version: ModelVersion) -> float | None:
    """Return the lead time in seconds that the version was fitted for, None when its tags do not tell."""
    return _number_in(version, "lead_time_s")


def load_version(registry: ModelRegistry, version: ModelVersion) -> Forecaster:
    """Return the net of a registered version, its digests checked.

    Raises:
        BadInput: If the artifact is damaged, tampered with or not what was registered.
        RegistryError: If it cannot be fetched.
    """
    folder: Path = registry.fetch(version.name, version.version)
    where = f"{version.name} version {version.version}"
    try:
        forecaster = load_artifact(folder)
    except ArtifactRefused as error:
        raise BadInput(f"the artifact is refused: {error.what}", where, error.remedy) from error
    registered = version.tags.get("artifact_digest")
    if registered is not None and forecaster.manifest.digest != registered:
        raise BadInput("the artifact is another one than was registered (its digest differs)", where, "train it anew")
    return forecaster


def learned_until(histories: Sequence[History], settings: TrainingSettings) -> dict[str, str]:
    """Return until which instant each history was learned from; only the latest of all where there are too many."""
    until = {
        history.name: history.series.start_at + test_from * history.series.step_s
        for history in histories
        for test_from in [split_in_time(len(history.series), settings.validation_ratio, settings.test_ratio).test_from]
    }
    text = json.dumps(until)
    return {LEARNED_UNTIL: text if len(text) <= TAG_CHARS else json.dumps({ANY_HISTORY: max(until.values())})}


def later_ratio(history: History, version: ModelVersion) -> float:
    """Return the share of ``history`` that is later than what ``version`` has learned of it, 1 if it has nothing."""
    try:
        learned = json.loads(version.tags.get(LEARNED_UNTIL, "{}"))
        until_at = float(learned.get(history.name, learned.get(ANY_HISTORY, "-inf")))
    except (ValueError, TypeError, AttributeError):
        return 1.0  # whoever wrote it: no tag of ours
    series = history.series
    later = math.floor((series.end_at - until_at) / series.step_s + 1e-6) if math.isfinite(until_at) else len(series)
    return min(1.0, max(0, later) / len(series))


def _number_in(version: ModelVersion, tag: str) -> float | None:
    try:
        return float(version.tags[tag])
    except (KeyError, ValueError):
        return None
