"""Where may replicas live? One of several platforms, told apart by its ``kind``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, TypeAlias

from pydantic import Discriminator, Tag

from controller.adapters.kube.member_settings import ClustersSettings
from controller.adapters.kube.settings import KubernetesSettings, RoutePlace
from controller.adapters.live_platform import PlatformSettings

KINDS = ("live", "kubernetes", "clusters")


def _kind(told: object) -> str | None:
    """Return which platform is meant; ``live`` where nothing is said, as the files of before do."""
    kind = told.get("kind", "live") if isinstance(told, Mapping) else getattr(told, "kind", None)
    return kind if kind in KINDS else None


AnyPlatform: TypeAlias = Annotated[
    Annotated[PlatformSettings, Tag("live")]
    | Annotated[KubernetesSettings, Tag("kubernetes")]
    | Annotated[ClustersSettings, Tag("clusters")],
    Discriminator(
        _kind, custom_error_type="platform", custom_error_message=f"needs a kind that is one of {', '.join(KINDS)}"
    ),
]


def cluster_of_lease(platform: AnyPlatform | None) -> KubernetesSettings | None:
    """Return the cluster that has the lease; None where only one process runs."""
    if isinstance(platform, ClustersSettings):
        return platform.members[platform.lease_in] if platform.lease_in else None
    return platform if isinstance(platform, KubernetesSettings) and platform.lease is not None else None


def routes_of(platform: AnyPlatform | None) -> tuple[RoutePlace, ...]:
    """Return the routes of all clusters."""
    if isinstance(platform, ClustersSettings):
        return tuple([route for member in platform.members.values() for route in member.routes])
    return platform.routes if isinstance(platform, KubernetesSettings) else ()


def engine_token_file(platform: AnyPlatform) -> Path | None:
    """Return the file with the token that engines want; of several clusters the one that all members name."""
    if not isinstance(platform, ClustersSettings):
        return platform.engine_token_file
    named = {member.engine_token_file for member in platform.members.values()}
    return named.pop() if len(named) == 1 else None
