"""Builders and fakes shared by the tests of ``training`` and of the model registry."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from controller.adapters.mlflow_registry import open_client
from controller.adapters.registry_store import RegistrySettings
from controller.errors import RegistryError
from controller.ports import ModelVersion
from forecasting.series import CHANNELS, FloatArray, LoadSeries
from training.history import History
from training.settings import TrainingSettings

DAY_STEPS = 48


def a_wave(steps: int, step_s: float = 60.0, seed: int = 0, noise: float = 0.03) -> LoadSeries:
    """A day of ``DAY_STEPS`` steps between 20 and 180 requests/s, with noise: what a net can learn in a second."""
    rng = np.random.default_rng(seed)
    rate = 100.0 + 80.0 * np.sin(2 * np.pi * np.arange(steps) / DAY_STEPS)
    return of_rates(rate * np.exp(noise * rng.standard_normal(steps)), step_s)


def of_rates(rate: FloatArray, step_s: float = 60.0) -> LoadSeries:
    """These requests/s, with 1000 prompt and 200 output tokens each."""
    return LoadSeries(0.0, step_s, np.stack([rate, 1000.0 * rate, 200.0 * rate], axis=1))


def a_history(steps: int = 480, seed: int = 0, name: str = "wave") -> History:
    return History(name, a_wave(steps, seed=seed), CHANNELS)


def small_settings(**changes: object) -> TrainingSettings:
    """A net that fits ``a_wave`` in a second or two."""
    values: dict[str, object] = {
        "step_s": 60.0,
        "lead_time_s": 120.0,
        "horizon_s": 300.0,
        "context_steps": 16,
        "hidden": (12,),
        "head": 16,
        "periods_s": (DAY_STEPS * 60.0,),
        "channels": ("requests_per_s",),
        "max_epochs": 8,
        "weight_decay": 0.1,
        "batch": 32,
        "min_windows_per_epoch": 400,
        "learning_rate": 5e-3,
    }
    return TrainingSettings.model_validate(values | changes)


class Stopwatch:
    """A stopwatch that advances by a fixed time at every reading."""

    def __init__(self, tick_s: float = 0.0) -> None:
        self.read_s, self._tick_s = 0.0, tick_s

    def __call__(self) -> float:
        self.read_s += self._tick_s
        return self.read_s


_EMPTY_STORE: list[bytes] = []


def a_store(folder: Path) -> RegistrySettings:
    """An empty MLflow store in ``folder``: copied from one made once per process, since its schema takes 4 s."""
    settings = RegistrySettings(store=f"sqlite:///{folder}/mlflow.db", cache=folder / "cache")
    if not _EMPTY_STORE:
        open_client(settings, may_create=True)
        _EMPTY_STORE.append((folder / "mlflow.db").read_bytes())
    (folder / "mlflow.db").write_bytes(_EMPTY_STORE[0])
    return settings


@dataclass
class FolderRegistry:
    """A ``ModelRegistry`` in memory over a plain folder: the fake that fast tests use, held to the same contract."""

    root: Path
    published: dict[str, list[ModelVersion]] = field(default_factory=dict)
    aliases: dict[tuple[str, str], str] = field(default_factory=dict)

    def fetch(self, name: str, alias_or_version: str) -> Path:
        """Return the folder of the version."""
        folder = self.root / name / self._version(name, alias_or_version)
        if not folder.is_dir():
            raise RegistryError("the files are gone", str(folder))
        return folder

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """Return all versions, newest first."""
        held = self.published.get(name, [])
        return tuple(replace(version, aliases=self._aliases_of(version)) for version in reversed(held))

    def publish(self, name: str, artifact: Path, tags: Mapping[str, str]) -> ModelVersion:
        """Copy the folder."""
        if not name or "/" in name or not artifact.is_dir() or not any(artifact.iterdir()):
            raise RegistryError("no such artifact or an impossible name", str(artifact))
        held = self.published.setdefault(name, [])
        version = ModelVersion(name, str(len(held) + 1), (), dict(tags))
        shutil.copytree(artifact, self.root / name / version.version)
        held.append(version)
        return version

    def point(self, name: str, alias: str, version: str) -> None:
        """Move the alias."""
        self.aliases[name, alias] = self._version(name, version)

    def _version(self, name: str, alias_or_version: str) -> str:
        version = self.aliases.get((name, alias_or_version), alias_or_version)
        if version not in [held.version for held in self.published.get(name, [])]:
            raise RegistryError(f"no version or alias {alias_or_version} of {name}", str(self.root))
        return version

    def _aliases_of(self, version: ModelVersion) -> tuple[str, ...]:
        return tuple(
            sorted(a for (name, a), held in self.aliases.items() if (name, held) == (version.name, version.version))
        )
