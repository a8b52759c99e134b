"""Who is the champion, who was before, and who was rolled back? What aliases and tags of a registered model say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, isfinite

from controller.ports import ModelRegistry, ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ROLLED_BACK, ROLLED_BACK_AT = "rolled_back", "rolled_back_at"
"""Tags of a version that a daemon rolled back, with the reason and the instant; promoting it anew empties them."""
PROMOTED_AT = "promoted_at"
FORCED = "gate_forced"
DIGEST = "artifact_digest"
_TAG_CHARS = 500


@dataclass(frozen=True, slots=True)
class RollBack:
    """A champion that lost its place.

    Attributes:
        bad: Its version.
        promotion: ``promotion_of`` it, as it was when it was judged.
        good: Who takes its place; empty for nobody.
        reason: Why.
        at: When.
    """

    bad: str
    promotion: str
    good: str
    reason: str
    at: float


def holder(versions: Sequence[ModelVersion], alias: str) -> ModelVersion | None:
    """Return the version that has ``alias``."""
    return next((version for version in versions if alias in version.aliases), None)


def promotion_of(version: ModelVersion) -> str:
    """Return what tells the present promotion of ``version`` from its next one; empty for an alias set by hand."""
    return version.tags.get(PROMOTED_AT, "")


def instant_in(version: ModelVersion, tag: str) -> float:
    """Return the instant that ``tag`` of ``version`` holds; minus infinity where it holds none."""
    try:
        at = float(version.tags.get(tag, ""))
    except ValueError:
        return -inf
    return at if isfinite(at) else -inf


def crown(registry: ModelRegistry, name: str, version: str, at: float) -> None:
    """Make ``version`` the champion; who was it before is remembered as ``previous``, unless it was rolled back.

    Raises:
        RegistryError: If the registry refuses; the alias moves last, so that the old champion stays until then.
    """
    old = holder(registry.versions(name), CHAMPION)
    if old is not None and old.version != version and not old.tags.get(ROLLED_BACK):
        registry.point(name, PREVIOUS, old.version)
    registry.tag(name, version, {ROLLED_BACK: "", ROLLED_BACK_AT: "", PROMOTED_AT: f"{at:.3f}"})
    registry.point(name, CHAMPION, version)


def roll_back(registry: ModelRegistry, name: str, step: RollBack) -> None:
    """Put ``step.good`` back in the place of ``step.bad``, which keeps the reason; without it the place stays empty.

    What somebody decided meanwhile is left alone: a version promoted anew, another champion.

    Raises:
        RegistryError: If the registry refuses.
    """
    versions = registry.versions(name)
    bad = next((version for version in versions if version.version == step.bad), None)
    if bad is None or promotion_of(bad) != step.promotion:
        return
    registry.tag(name, step.bad, {ROLLED_BACK: step.reason[:_TAG_CHARS], ROLLED_BACK_AT: f"{step.at:.3f}"})
    if step.good and CHAMPION in bad.aliases:
        registry.point(name, CHAMPION, step.good)
