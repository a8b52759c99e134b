"""Has the settings file changed, and can what it says now be used without a restart?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from controller.errors import BadSetting
from controller.platform_settings import cluster_of_lease
from controller.settings import Settings, load_settings
from controller.shards import own_part
from controller.yaml_source import MAX_BYTES


def _place_of_lease(settings: Settings) -> object:
    """Return in which cluster the lease is: one that moved with the platform would be two."""
    place = cluster_of_lease(settings.platform)
    return None if place is None else (getattr(settings.platform, "kind", None), place.kubeconfig, place.context)


def _lease(settings: Settings) -> object:
    place = cluster_of_lease(settings.platform)
    return None if place is None else place.lease


_FIXED: dict[str, Callable[[Settings], object]] = {
    "audit.url": lambda settings: settings.audit.url,
    "daemon.shard": lambda settings: settings.daemon.shard.model_dump(),
    "daemon.keda": lambda settings: settings.daemon.keda,
    "daemon.status": lambda settings: settings.daemon.status,
    "platform.lease": _lease,
    "platform, where the lease is,": _place_of_lease,
}


class Overlay(Protocol):
    """Settings that come from elsewhere and are laid over those of the file."""

    def lay_over(self, settings: Settings) -> Settings:
        """Return what holds where the file says ``settings``; raises BadSetting."""
        ...

    def changed(self) -> bool:
        """Whether there is other than was laid over last."""
        ...


class SettingsFile:
    """One settings file, the overrides laid over it, and an overlay over both."""

    def __init__(self, path: Path | None, overrides: Sequence[str] = (), overlay: Overlay | None = None) -> None:
        """``path`` is None for defaults and overrides alone, which never change."""
        self.path, self._overrides, self._overlay = path, tuple(overrides), overlay
        self._seen = self._digest()

    def load(self) -> Settings:
        """Return what it says now of the part of the fleet that this process has.

        Raises:
            BadSettings: If anything in it is wrong.
        """
        self._seen = self._digest()
        settings = load_settings(self.path, self._overrides)
        return own_part(settings if self._overlay is None else self._overlay.lay_over(settings))

    def reload(self, used: Settings) -> Settings:
        """Return what it says now, for use in place of ``used``.

        Raises:
            BadSetting: If anything in it is wrong, or cannot change while the daemon runs.
        """
        wanted = self.load()
        fixed = [key for key, of in _FIXED.items() if of(wanted) != of(used)]
        if fixed:
            what = f"{' and '.join(fixed)} cannot change while the daemon runs"
            raise BadSetting(what, str(self.path), "change it back, or restart the daemon")
        return wanted

    def changed(self) -> bool:
        """Whether its content differs from what was last loaded, whether or not that could be used, or the overlay."""
        return self._digest() != self._seen or (self._overlay is not None and self._overlay.changed())

    def _digest(self) -> str:
        """Return what names the content: a link that was moved to another file, as Kubernetes does, counts as well."""
        if self.path is None:
            return ""
        try:
            with self.path.open("rb") as file:
                return sha256(file.read(MAX_BYTES + 1)).hexdigest()
        except OSError as error:
            return f"unreadable: {error.errno}"
