"""Which fitted net does a fit go on from, and may it? Its shape stays what it is; another one has to be fitted anew."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from controller.adapters.registry_store import RegistrySettings
from controller.errors import BadInput
from controller.redaction import redacted
from forecasting.artifact import ArtifactRefused, read_artifact
from forecasting.net_spec import NetSpec
from training.settings import TrainingSettings, shape_settings


@dataclass(frozen=True, slots=True, eq=False)
class StartingNet:
    """A fitted net to go on from: its name, its shape, its weights, and until when it has learned (Unix seconds)."""

    name: str
    spec: NetSpec
    weights: Mapping[str, npt.NDArray[np.float32]]
    fitted_until: float = -math.inf

    @classmethod
    def read(cls, folder: Path) -> StartingNet:
        """Return the net of an artifact; raises ArtifactRefused if it is damaged."""
        manifest, arrays = read_artifact(folder)
        until = manifest.card.training.fitted_until
        name = f"{manifest.card.name}@{manifest.version}"
        return cls(name, manifest.card.spec, arrays, -math.inf if until is None else until)


def registered_net(registry: RegistrySettings, name: str, wanted: str, now: Callable[[], float]) -> StartingNet:
    """Return the net of a registered version or alias.

    Raises:
        BadInput: If there is none, or its artifact is damaged.
        RegistryError: If the store cannot be used.
    """
    from training.tracking import Tracker
    from training.versions import find_version

    models = Tracker.open(registry, now, may_create=False).registry
    version = find_version(models, name, wanted)
    if version is None:
        known = ", ".join(each.version for each in models.versions(name)) or "none"
        what = f"{name!r} has no version or alias {wanted!r}"
        raise BadInput(what, redacted(registry.store), f"known versions: {known}")
    try:
        return StartingNet.read(models.fetch(name, version.version))
    except ArtifactRefused as error:
        where = f"{name} version {version.version}"
        raise BadInput(f"the artifact is refused: {error.what}", where, error.remedy) from error


def shaped_like(start: StartingNet, values: Mapping[str, Any], said: Collection[str]) -> dict[str, Any]:
    """Return ``values`` of training settings with the shape of ``start``, but for those ``said`` by the user.

    What was said of the shape is kept, so that ``kept_shape`` can refuse it by name.
    """
    told = {*said, "lead_steps"} if "horizon_s" in said else {*said}
    own = {key: value for key, value in shape_settings(start.spec).items() if key not in told}
    changed = {**values, **own}
    if "lead_time_s" not in said:
        changed["lead_time_s"] = min(changed["lead_time_s"], changed["horizon_s"])
    return changed


def kept_shape(start: StartingNet, settings: TrainingSettings, asked: NetSpec) -> NetSpec:
    """Return the shape of ``start``, after refusing settings that ask for another one.

    Seasons are its own: what the new history does not hold of them is masked, as in service.
    """
    free = {"periods_s", "calendar", "channels"}
    own, wanted = (spec.model_dump(exclude=free) for spec in (start.spec, asked))
    for key, value in own.items():
        if wanted[key] != value:
            raise BadInput(
                f"{start.name} has {key} {_shown(value)}, not {_shown(wanted[key])}",
                "--from",
                "ask for what it has, or train anew without --from",
            )
    return start.spec.model_copy(update={"channels": settings.channels})


def _shown(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
