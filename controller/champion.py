"""Who forecasts? The registry's champion, loaded when it changes, then a plain forecaster that always can."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.adapters.registry_store import RegistrySettings, sqlite_path
from controller.errors import RegistryError
from forecasting.forecaster import FallbackForecaster, Forecaster

if TYPE_CHECKING:
    from controller.ports import ModelRegistry

CHAMPION = "champion"


class Champion:
    """Watches one registered model's champion.

    ``version`` is the one loaded; empty while there is none.
    """

    def __init__(self, registry: RegistrySettings, name: str, step_s: float) -> None:
        """``step_s`` is the step that forecasts are made in; a model of another step is refused."""
        self._settings, self._name, self._step_s = registry, name, step_s
        self._registry: ModelRegistry | None = None
        self._refused: dict[str, RegistryError] = {}
        self.version = ""

    def news(self) -> Forecaster | None:
        """Return the champion if it is another than the one returned last; None when there is nothing new.

        A store that was never made has no champion, which is no error.

        Raises:
            RegistryError: If the registry does not answer, or the champion cannot be used; then the old one stays.
        """
        path = sqlite_path(self._settings.store)
        if path is not None and not path.exists():
            return None
        versions = self._opened().versions(self._name)
        found = next((version for version in versions if CHAMPION in version.aliases), None)
        if found is None or found.version == self.version:
            return None
        if found.version in self._refused:
            raise self._refused[found.version]
        try:
            model = self._load(found.version)
        except RegistryError as error:
            self._refused = {found.version: error}  # what a version holds never changes
            raise
        self.version = found.version
        return model

    def _opened(self) -> ModelRegistry:
        if self._registry is None:
            from controller.adapters.mlflow_registry import MlflowRegistry

            self._registry = MlflowRegistry.open(self._settings)
        return self._registry

    def _load(self, version: str) -> Forecaster:
        from forecasting.artifact import ArtifactRefused, load_artifact

        folder = self._opened().fetch(self._name, version)
        try:
            model = load_artifact(folder)
        except ArtifactRefused as refused:
            raise RegistryError(refused.what, refused.where, refused.remedy) from None
        step_s = model.manifest.card.spec.step_s
        if step_s != self._step_s:
            raise RegistryError(
                f"version {version} was trained on steps of {step_s:g} s, forecasts are made in steps of "
                f"{self._step_s:g} s",
                self._name,
                f"train one with that step, or set forecast.step_s={step_s:g}",
            )
        return model


def chain_of(champion: Forecaster | None) -> FallbackForecaster:
    """Return who is asked for forecasts, in order of preference; when all step back, scaling is reactive only."""
    from forecasting.last_value import LastValueForecaster

    plain = LastValueForecaster()
    return FallbackForecaster((plain,) if champion is None else (champion, plain))
