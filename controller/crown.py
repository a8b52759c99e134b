"""Who is the champion, who was before, and who was rolled back? What aliases and tags of a registered model say."""

from __future__ import annotations

from collections.abc import Sequence

from controller.ports import ModelRegistry, ModelVersion

CHAMPION, CHALLENGER, PREVIOUS = "champion", "challenger", "previous"
ROLLED_BACK = "rolled_back"
"""Tag of a version that a daemon rolled back, with the reason; promoting it anew empties it."""
PROMOTED_AT = "promoted_at"
FORCED = "gate_forced"
_TAG_CHARS = 500


def holder(versions: Sequence[ModelVersion], alias: str) -> ModelVersion | None:
    """Return the version that has ``alias``."""
    return next((version for version in versions if alias in version.aliases), None)


def crown(registry: ModelRegistry, name: str, version: str, at: float) -> None:
    """Make ``version`` the champion; who was it before is remembered as ``previous``, unless it was rolled back.

    Raises:
        RegistryError: If the registry refuses; the alias moves last, so that the old champion stays until then.
    """
    old = holder(registry.versions(name), CHAMPION)
    if old is not None and old.version != version and not old.tags.get(ROLLED_BACK):
        registry.point(name, PREVIOUS, old.version)
    registry.tag(name, version, {ROLLED_BACK: "", PROMOTED_AT: f"{at:.3f}"})
    registry.point(name, CHAMPION, version)


def roll_back(registry: ModelRegistry, name: str, bad: str, good: str | None, reason: str) -> None:
    """Put ``good`` back in the place of ``bad``, which keeps the reason; without ``good`` nobody is the champion.

    Raises:
        RegistryError: If the registry refuses.
    """
    registry.tag(name, bad, {ROLLED_BACK: reason[:_TAG_CHARS]})
    if good is not None:
        registry.point(name, CHAMPION, good)
