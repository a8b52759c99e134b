"""May the challenger take the champion's place? Only if it was no worse on recent load that neither was fitted on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from controller.errors import BadInput
from controller.ports import ModelRegistry, ModelVersion
from forecasting.artifact import ArtifactRefused, load_artifact
from forecasting.forecaster import Forecaster
from training.backtest import Score, ask, examination, score
from training.candidates import BASELINE, PLAIN
from training.dataset import data_digest
from training.history import History


class GateSettings(BaseModel):
    """How a challenger is judged."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    lead_s: tuple[float, ...] = Field(
        (120.0, 300.0), min_length=1, description="Leads judged, in seconds: around a start-up and a slow one."
    )
    held_out_ratio: float = Field(
        0.15, gt=0, lt=1, description="Newest share of each history that is judged on; what training left out too."
    )
    tolerance: float = Field(
        0.02,
        ge=0,
        le=1,
        description="By how much the challenger's mean pinball loss may exceed the champion's, as a share; fits on the "
        "same history with another seed differ by about that.",
    )
    max_origins: int = Field(
        500, ge=10, le=1_000_000, description="Most origins per history; more sharpen the verdict and take longer."
    )


@dataclass(frozen=True, slots=True)
class Comparison:
    """One measure of both models over all series and leads, each loss normalised by the mean load of its series."""

    measure: str
    challenger: float
    champion: float

    @property
    def ratio(self) -> float:
        """Challenger over champion; below 1 the challenger is better."""
        return self.challenger / self.champion if self.champion else float("inf")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the challenger may be promoted, and why or why not, in sentences.

    Attributes:
        champion: Version it was compared with; empty when there is none yet and the last value stood in for it.
        scores: Scores of both, per series and lead.
    """

    passed: bool
    reasons: tuple[str, ...]
    challenger: str
    champion: str
    comparisons: tuple[Comparison, ...]
    scores: tuple[Score, ...]


def find_version(registry: ModelRegistry, name: str, alias_or_version: str) -> ModelVersion | None:
    """Return the version of ``name`` that has this alias or number, None when there is none."""
    return next((v for v in registry.versions(name) if alias_or_version in (v.version, *v.aliases)), None)


def step_of(version: ModelVersion) -> float | None:
    """Return the step in seconds that the version was fitted on, None when its tags do not tell."""
    try:
        return float(version.tags["step_s"])
    except (KeyError, ValueError):
        return None


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


def judge(
    registry: ModelRegistry,
    challenger: ModelVersion,
    champion: ModelVersion | None,
    histories: Sequence[History],
    settings: GateSettings,
    elapsed: Callable[[], float],
    on_progress: Callable[[float], None] = lambda _: None,
) -> Verdict:
    """Ask both at the same recent origins and compare their pinball losses, of the load and of its peak.

    Without a champion the last value stands in: a first model has to be worth having.

    Raises:
        BadInput: If an artifact is refused, or no history is long enough to judge on.
        RegistryError: If an artifact cannot be fetched.
    """
    rivals = [(challenger, load_version(registry, challenger)), (champion, _rival(registry, champion))]
    rows: tuple[list[Score], list[Score]] = ([], [])
    for number, history in enumerate(histories):
        ratio = _held_out_ratio(history, histories, [version for version, _ in rivals], settings)
        try:
            exam = examination(history, settings.lead_s, settings.max_origins, ratio)
        except ValueError as error:
            raise BadInput(str(error), history.name, "give a longer history") from error
        last_value = ask(exam, BASELINE, PLAIN[BASELINE](), elapsed)
        for turn, (version, forecaster) in enumerate(rivals):

            def show(share: float, done: float = number + turn / 2) -> None:
                on_progress((done + share / 2) / len(histories))

            label = BASELINE if version is None else f"version {version.version}"
            answers = last_value if version is None else ask(exam, label, forecaster, elapsed, show)
            rows[turn].extend(score(exam, answers, last_value))
    return _verdict(challenger, champion, rows[0], rows[1], settings)


def _rival(registry: ModelRegistry, champion: ModelVersion | None) -> Forecaster:
    return PLAIN[BASELINE]() if champion is None else load_version(registry, champion)


def _held_out_ratio(
    history: History, histories: Sequence[History], rivals: Sequence[ModelVersion | None], settings: GateSettings
) -> float:
    """Return the share to judge on: none of it may have been in the training or validation part of either model."""
    digests = {data_digest([history.series]), data_digest([each.series for each in histories])}
    ratio = settings.held_out_ratio
    for version in rivals:
        if version is not None and version.tags.get("data_digest") in digests:
            ratio = min(ratio, float(version.tags.get("test_ratio", ratio)))
    if ratio <= 0:
        raise BadInput(
            "one of the models was fitted on all of this history, nothing is left to judge on",
            history.name,
            "give a later history, or train with a test part",
        )
    return ratio


def _verdict(
    challenger: ModelVersion,
    champion: ModelVersion | None,
    new: Sequence[Score],
    old: Sequence[Score],
    settings: GateSettings,
) -> Verdict:
    comparisons = (
        Comparison(
            "pinball", _mean(new, lambda row: row.pinball_normalised), _mean(old, lambda row: row.pinball_normalised)
        ),
        Comparison(
            "peak pinball",
            _mean(new, lambda row: row.peak_pinball_normalised),
            _mean(old, lambda row: row.peak_pinball_normalised),
        ),
    )
    against = f"version {champion.version}" if champion else "the last value (there is no champion yet)"
    reasons = []
    for each in comparisons:
        change = (
            f"{each.measure} {each.challenger:.4f} against {each.champion:.4f} of {against} ({each.ratio - 1:+.1%})"
        )
        allowed = each.ratio <= 1.0 + settings.tolerance
        reasons.append(change if allowed else f"{change}, more than the tolerance of {settings.tolerance:.0%}")
    passed = all(each.ratio <= 1.0 + settings.tolerance for each in comparisons)
    silent = [row for row in new if row.answered_ratio < 0.5]
    if silent:
        passed = False
        reasons.append(
            f"it answered at only {silent[0].answered_ratio:.0%} of the origins of {silent[0].series}, "
            "the last value had to stand in"
        )
    return Verdict(
        passed, tuple(reasons), challenger.version, champion.version if champion else "", comparisons, (*new, *old)
    )


def _mean(rows: Sequence[Score], measure: Callable[[Score], float]) -> float:
    return sum(measure(row) for row in rows) / len(rows)
