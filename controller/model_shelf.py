"""Which model does a registered version hold? Fetched once, checked, and kept while somebody may ask for it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from controller.adapters.registry_store import RegistrySettings
from controller.crown import DIGEST
from controller.errors import RegistryError

if TYPE_CHECKING:
    from controller.ports import ModelRegistry, ModelVersion
    from forecasting.neural import NeuralForecaster


class ModelShelf:
    """The versions of one registered model, as far as they are in use here.

    Attributes:
        known: What the registry said last of each version.
    """

    def __init__(self, settings: RegistrySettings, name: str, step_s: float) -> None:
        """``step_s`` is the step that forecasts are made in; a model of another step is refused."""
        self._settings, self._name, self._step_s = settings, name, step_s
        self._registry: ModelRegistry | None = None
        self._loaded: dict[str, tuple[NeuralForecaster, Path]] = {}
        self._refused: dict[str, RegistryError] = {}
        self.known: Mapping[str, ModelVersion] = {}

    @property
    def registry(self) -> ModelRegistry:
        """The registry, opened when it is first needed; raises RegistryError if that cannot be done."""
        if self._registry is None:
            from controller.adapters.mlflow_registry import MlflowRegistry

            self._registry = MlflowRegistry.open(self._settings)
        return self._registry

    def look(self) -> tuple[ModelVersion, ...]:
        """Return all versions as the registry tells of them now, newest first.

        Raises:
            RegistryError: If it does not answer.
        """
        versions = self.registry.versions(self._name)
        self.known = {version.version: version for version in versions}
        return versions

    def load(self, version: str) -> NeuralForecaster:
        """Return the model, from memory if it was loaded before: what a version holds never changes.

        Raises:
            RegistryError: If it cannot be fetched, or is none that can forecast here.
        """
        if version in self._refused:
            raise self._refused[version]
        if version not in self._loaded:
            folder = self.registry.fetch(self._name, version)
            try:
                known = self.known.get(version)
                self.put(version, folder, None if known is None else known.tags.get(DIGEST))
            except RegistryError as error:
                self._refused[version] = error
                raise
        return self._loaded[version][0]

    def put(self, version: str, folder: Path, digest: str | None) -> NeuralForecaster:
        """Take the model in ``folder`` for that of ``version``; ``digest`` is that of its manifest, None for unknown.

        Raises:
            RegistryError: If it is damaged, another one than was registered, or of another step.
        """
        from forecasting.artifact import ArtifactRefused, load_artifact

        try:
            model = load_artifact(folder)
        except ArtifactRefused as refused:
            raise RegistryError(refused.what, refused.where, refused.remedy) from None
        if digest is not None and digest != model.manifest.digest:
            what = f"version {version} holds another artifact than was registered (its digest differs)"
            raise RegistryError(what, self._name, "train it anew")
        step_s = model.manifest.card.spec.step_s
        if step_s != self._step_s:
            raise RegistryError(
                f"version {version} was trained on steps of {step_s:g} s, forecasts are made in steps of "
                f"{self._step_s:g} s",
                self._name,
                f"train one with that step, or set forecast.step_s={step_s:g}",
            )
        self._loaded[version] = model, folder
        return model

    def local_copy(self, version: str) -> tuple[str, str] | None:
        """Return folder name and digest of a model that is loaded; None if it is not."""
        if version not in self._loaded:
            return None
        model, folder = self._loaded[version]
        return folder.name, model.manifest.digest

    def keep(self, versions: Collection[str]) -> None:
        """Let go of all but ``versions``."""
        self._loaded = {version: known for version, known in self._loaded.items() if version in versions}
        self._refused = {version: error for version, error in self._refused.items() if version in versions}
