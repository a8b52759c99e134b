"""Who forecasts? The registry's champion, loaded when it changes, then a plain forecaster that always can.

The champion before it is kept in mind for a roll-back, the challenger for comparison; neither is asked for decisions.
When the registry does not answer at the start, the champion that was loaded last comes from the local copy.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from controller import last_good
from controller.adapters.registry_store import RegistrySettings, sqlite_path
from controller.crown import CHALLENGER, CHAMPION, FORCED, PREVIOUS, PROMOTED_AT, ROLLED_BACK, holder, roll_back
from controller.errors import RegistryError
from forecasting.company import Company, forecasters_of
from forecasting.forecaster import FallbackForecaster, Forecaster

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.ports import ModelRegistry, ModelVersion
    from forecasting.neural import NeuralForecaster

__all__ = ["CHALLENGER", "CHAMPION", "PREVIOUS", "Champion", "chain_of"]


class Champion:
    """Watches one registered model: its champion, and the versions beside it. It may be asked from several threads.

    Attributes:
        version: The champion that is loaded; empty while there is none.
        model: Itself.
        forced: Whether it was promoted against the verdict.
        rivals: ``challenger`` and ``previous`` where they are other versions that can be used.
    """

    def __init__(self, registry: RegistrySettings, name: str, step_s: float) -> None:
        """``step_s`` is the step that forecasts are made in; a model of another step is refused."""
        self._settings, self._name, self._step_s = registry, name, step_s
        self._registry: ModelRegistry | None = None
        self._refused: dict[str, RegistryError] = {}
        self._banned: dict[str, str | None] = {}
        self._promoted_at: str | None = None
        self._one_at_a_time = threading.Lock()
        self._loaded: dict[str, tuple[NeuralForecaster, Path]] = {}
        self._before = ""
        self.version, self.forced = "", False
        self.model: Forecaster | None = None
        self.rivals: Mapping[str, Forecaster] = {}

    def news(self) -> Forecaster | None:
        """Return the champion if it is another than the one returned last; None when there is nothing new.

        A store that was never made has no champion, which is no error, and one that was rolled back is none.

        Raises:
            RegistryError: If the registry does not answer, or the champion cannot be used; then the old one stays.
        """
        with self._one_at_a_time:
            return self._news()

    def _news(self) -> Forecaster | None:
        path = sqlite_path(self._settings.store)
        if path is not None and not path.exists():
            return None
        try:
            versions = self._opened().versions(self._name)
        except RegistryError:
            if self.version or (kept := self._from_disk()) is None:
                raise
            return kept
        found = holder(versions, CHAMPION)
        model = None
        if found is not None and found.version != self.version and not self._is_banned(found):
            model = self._take(found.version)
            self.forced = bool(found.tags.get(FORCED))
        if found is not None and found.version == self.version:
            self._promoted_at = found.tags.get(PROMOTED_AT, "")
        self._find_rivals(versions)
        return model

    def seen(self) -> tuple[str, Forecaster | None, Mapping[str, Forecaster]]:
        """Return ``version``, ``model`` and ``rivals`` as they are together."""
        with self._one_at_a_time:
            return self.version, self.model, self.rivals

    def relegate(self, bad: str, reason: str) -> Forecaster | None:
        """Use the champion before version ``bad`` from now on, and have that on record; None when there is none to use.

        Nothing happens where another than ``bad`` is in use by now.

        Raises:
            RegistryError: If the registry could not be told. What is loaded has changed nevertheless, see ``model``.
        """
        with self._one_at_a_time:
            if bad != self.version:
                return self.model
            self._banned[bad] = self._promoted_at
            self.version, self.model, self._promoted_at = "", None, None
            good = next((version for version in self._candidates(bad) if self._can_take(version)), None)
            if good is None:
                with suppress(OSError):
                    last_good.forget(self._settings.cache_folder, self._name)
            roll_back(self._opened(), self._name, bad, good, reason)
            return self.model

    def _candidates(self, bad: str) -> list[str]:
        """Return who may come back, in order of preference: who was champion before by the record, or by memory."""
        with suppress(RegistryError):
            versions = self._opened().versions(self._name)
            previous = holder(versions, PREVIOUS)
            known = [previous] if previous is not None else []
            known += [version for version in versions if version.version == self._before]
            return [one.version for one in known if one.version != bad and not self._is_banned(one)]
        return [self._before] if self._before not in ("", bad) else []

    def _can_take(self, version: str) -> bool:
        with suppress(RegistryError):
            self._take(version)
            return True
        return False

    def _take(self, version: str) -> Forecaster:
        model = self._load(version)
        self._before = self.version or self._before
        self.version, self.model, self.forced, self._promoted_at = version, model, False, None
        with suppress(OSError):
            kept = last_good.LastGood(version, self._loaded[version][1].name, model.manifest.digest)
            last_good.remember(self._settings.cache_folder, self._name, kept)
        return model

    def _is_banned(self, version: ModelVersion) -> bool:
        """Return whether it was rolled back, by us or on record, and not promoted since."""
        promoted_at = version.tags.get(PROMOTED_AT, "")
        if version.version in self._banned and self._banned[version.version] is None:
            # The registry was away all the time that it was in use: what it says first is what was rolled back.
            self._banned[version.version] = promoted_at
        return bool(version.tags.get(ROLLED_BACK)) or self._banned.get(version.version) == promoted_at

    def _find_rivals(self, versions: tuple[ModelVersion, ...]) -> None:
        """Load who is compared with the champion; whoever cannot be used is left out."""
        rivals: dict[str, Forecaster] = {}
        for alias in (CHALLENGER, PREVIOUS):
            found = holder(versions, alias)
            if found is not None and found.version != self.version and not self._is_banned(found):
                with suppress(RegistryError):
                    rivals[alias] = self._load(found.version)
        self.rivals = rivals
        there = {version.version for version in versions if version.aliases} | {self.version, self._before}
        self._loaded = {version: known for version, known in self._loaded.items() if version in there}
        self._refused = {version: error for version, error in self._refused.items() if version in there}

    def _opened(self) -> ModelRegistry:
        if self._registry is None:
            from controller.adapters.mlflow_registry import MlflowRegistry

            self._registry = MlflowRegistry.open(self._settings)
        return self._registry

    def _load(self, version: str) -> NeuralForecaster:
        """Return the model, from memory if it was loaded before: what a version holds never changes."""
        if version in self._refused:
            raise self._refused[version]
        if version not in self._loaded:
            folder = self._opened().fetch(self._name, version)
            try:
                self._loaded[version] = self._checked(folder, version), folder
            except RegistryError as error:
                self._refused[version] = error
                raise
        return self._loaded[version][0]

    def _checked(self, folder: Path, version: str) -> NeuralForecaster:
        from forecasting.artifact import ArtifactRefused, load_artifact

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

    def _from_disk(self) -> Forecaster | None:
        """Return the champion that was loaded last by whoever ran before; None without one, or if it is another now."""
        kept = last_good.recall(self._settings.cache_folder, self._name)
        if kept is None:
            return None
        folder = self._settings.cache_folder / kept.folder
        try:
            model = self._checked(folder, kept.version)
        except RegistryError:
            return None
        if model.manifest.digest != kept.digest:
            return None
        self._loaded[kept.version] = model, folder
        self.version, self.model = kept.version, model
        return model


def chain_of(champion: Forecaster | None, company: Company = Company.SINGLE) -> FallbackForecaster:
    """Return who is asked for forecasts, in order of preference; when all step back, scaling is reactive only."""
    return FallbackForecaster(forecasters_of(company, champion))
