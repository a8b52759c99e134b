"""Where may replicas live? One of several platforms, told apart by its ``kind``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import Discriminator, Tag

from controller.adapters.kube.settings import KubernetesSettings
from controller.adapters.live_platform import PlatformSettings

KINDS = ("live", "kubernetes")


def _kind(told: object) -> str | None:
    """Return which platform is meant; ``live`` where nothing is said, as the files of before do."""
    kind = told.get("kind", "live") if isinstance(told, Mapping) else getattr(told, "kind", None)
    return kind if kind in KINDS else None


AnyPlatform: TypeAlias = Annotated[
    Annotated[PlatformSettings, Tag("live")] | Annotated[KubernetesSettings, Tag("kubernetes")],
    Discriminator(
        _kind, custom_error_type="platform", custom_error_message=f"needs a kind that is one of {', '.join(KINDS)}"
    ),
]
