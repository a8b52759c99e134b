"""Who forecasts? The registry's champion, loaded when it changes, then a plain forecaster that always can.

The champion before it is kept in mind for a roll-back, the challenger for comparison; neither is asked for decisions.
When the registry does not answer at the start, the champion that was loaded last comes from the local copy. What was
rolled back here stays away whether or not the registry could be told, and it is told as soon as that can be done.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from controller import last_good
from controller.adapters.registry_store import RegistrySettings, sqlite_path
from controller.crown import (
    CHALLENGER,
    CHAMPION,
    FORCED,
    PREVIOUS,
    PROMOTED_AT,
    ROLLED_BACK,
    ROLLED_BACK_AT,
    RollBack,
    holder,
    instant_in,
    promotion_of,
    roll_back,
)
from controller.errors import RegistryError
from controller.model_shelf import ModelShelf
from forecasting.company import Company, forecasters_of
from forecasting.forecaster import FallbackForecaster, Forecaster

if TYPE_CHECKING:
    from controller.ports import ModelVersion

__all__ = ["CHALLENGER", "CHAMPION", "PREVIOUS", "Champion", "Seats", "chain_of"]

_NEVER = float("-inf")


@dataclass(frozen=True, slots=True)
class Seats:
    """Who has which part, at one instant.

    Attributes:
        version: The champion that is loaded; empty while there is none.
        model: Itself.
        forced: Whether it was promoted against the verdict.
        promoted_at: When; minus infinity where nobody knows.
        rivals: ``challenger`` and ``previous`` where they are other versions that can be used.
        versions: Of the rivals.
        unusable: Why a rival cannot be used, by its part.
        rolled_back_at: When some version of the model was rolled back last, by any daemon.
    """

    version: str = ""
    model: Forecaster | None = None
    forced: bool = False
    promoted_at: float = _NEVER
    rivals: Mapping[str, Forecaster] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    unusable: Mapping[str, RegistryError] = field(default_factory=dict)
    rolled_back_at: float = _NEVER


class Champion:
    """Watches one registered model: its champion, and the versions beside it. Several threads may ask.

    Attributes:
        seats: Who has which part now; replaced as a whole.
    """

    def __init__(self, registry: RegistrySettings, name: str, step_s: float) -> None:
        """``step_s`` is the step that forecasts are made in; a model of another step is refused."""
        self._settings, self._name = registry, name
        self._shelf = ModelShelf(registry, name, step_s)
        self._banned: dict[str, str] | None = None
        self._owed: list[RollBack] = []
        self._before = ""
        self._turn = threading.RLock()
        self.seats = Seats()

    @property
    def version(self) -> str:
        """The champion that is loaded; empty while there is none."""
        return self.seats.version

    def news(self) -> Forecaster | None:
        """Return the champion if it is another than the one returned last; None when there is nothing new.

        A store that was never made has no champion, which is no error, and one that was rolled back is none.

        Raises:
            RegistryError: If the registry does not answer, or the champion cannot be used; then the old one stays. Or
                if it cannot be told of a roll-back.
        """
        with self._turn:
            path = sqlite_path(self._settings.store)
            if path is not None and not path.exists():
                return None
            try:
                versions = self._shelf.look()
            except RegistryError:
                if self.seats.version or (kept := self._from_disk()) is None:
                    raise
                return kept
            untold = self._untold()
            found = holder(versions, CHAMPION)
            model = None
            try:
                if found is not None and found.version != self.seats.version and self._may_serve(found.version):
                    model = self._take(found.version)
            finally:
                self._look_around(versions)
            if model is None and untold is not None:
                raise untold
            return model

    def relegate(self, bad: str, reason: str, at: float) -> bool:
        """Use the champion before ``bad`` from now on, or none, and have that on record.

        Returns:
            Whether it lost its place; not where another one has taken that meanwhile.

        Raises:
            RegistryError: If the registry could not be told, which is tried again with the next ``news``. ``bad`` is
                not in use any more nevertheless.
        """
        with self._turn:
            if not bad or self.seats.version != bad:
                return False
            with suppress(RegistryError):  # what was known last has to do
                self._shelf.look()
            promotion = self._promotion(bad)
            self._bans()[bad] = promotion
            rivals = {part: rival for part, rival in self.seats.rivals.items() if part == CHALLENGER}
            self.seats = Seats(rivals=rivals, versions=self.seats.versions, rolled_back_at=at)
            good = next((version for version in self._earlier(bad) if self._can_take(version)), "")
            self._remember()
            self._owed.append(RollBack(bad, promotion, good, reason, at))
            untold = self._untold()
            if untold is not None:
                raise untold
            return True

    def _untold(self) -> RegistryError | None:
        """Tell the registry of the roll-backs that it does not know of yet; return why it could not be told."""
        try:
            while self._owed:
                roll_back(self._shelf.registry, self._name, self._owed[0])
                del self._owed[0]
        except RegistryError as error:
            return error
        return None

    def _earlier(self, champion: str) -> list[str]:
        """Return who was champion before ``champion``, in order of preference.

        The record goes first, unless the alias was set past it; then what was in use here does.
        """
        known = self._shelf.known.get(champion)
        previous = holder([*self._shelf.known.values()], PREVIOUS)
        order = [previous.version if previous is not None else "", self._before]
        if known is not None and not promotion_of(known):
            order.reverse()
        return [one for one in dict.fromkeys(order) if one not in ("", champion) and self._may_serve(one)]

    def _can_take(self, version: str) -> bool:
        with suppress(RegistryError):
            self._take(version)
            return True
        return False

    def _take(self, version: str) -> Forecaster:
        model, known = self._shelf.load(version), self._shelf.known.get(version)
        self._bans().pop(version, None)
        self._before = self.seats.version or self._before
        forced = known is not None and bool(known.tags.get(FORCED))
        promoted_at = _NEVER if known is None else instant_in(known, PROMOTED_AT)
        self.seats = replace(self.seats, version=version, model=model, forced=forced, promoted_at=promoted_at)
        self._remember()
        return model

    def _may_serve(self, version: str) -> bool:
        """Return whether it was not rolled back, by us or on record, or promoted since."""
        known, bans = self._shelf.known.get(version), self._bans()
        if known is None:
            return version not in bans
        return not known.tags.get(ROLLED_BACK) and bans.get(version) != promotion_of(known)

    def _look_around(self, versions: Sequence[ModelVersion]) -> None:
        """Load who is compared with the champion; whoever cannot be used is left out."""
        earlier = self._earlier(self.seats.version)
        challenger = holder(versions, CHALLENGER)
        wanted = {PREVIOUS: earlier[0]} if earlier and self.seats.version else {}
        if challenger is not None and challenger.version != self.seats.version and self._may_serve(challenger.version):
            wanted[CHALLENGER] = challenger.version
        rivals: dict[str, Forecaster] = {}
        unusable: dict[str, RegistryError] = {}
        for part, version in wanted.items():
            try:
                rivals[part] = self._shelf.load(version)
            except RegistryError as error:
                unusable[part] = error
        at = max([instant_in(version, ROLLED_BACK_AT) for version in versions], default=_NEVER)
        self.seats = replace(
            self.seats,
            rivals=rivals,
            versions=wanted,
            unusable=unusable,
            rolled_back_at=max(at, self.seats.rolled_back_at),
        )
        there = {version.version for version in versions if version.aliases} | {self.seats.version, self._before}
        self._shelf.keep(there)

    def _from_disk(self) -> Forecaster | None:
        """Return the champion that was loaded last by whoever ran before; None without one, or if it is another now."""
        last = last_good.recall(self._settings.cache_folder, self._name).last
        if last is None or not self._may_serve(last.version):
            return None
        folder = self._settings.cache_folder / last.folder
        try:
            model = self._shelf.put(last.version, folder, last.digest)
        except RegistryError:
            return None
        self.seats = replace(self.seats, version=last.version, model=model)
        return model

    def _bans(self) -> dict[str, str]:
        """Return who was rolled back here, with the promotion that it had."""
        if self._banned is None:
            self._banned = dict(last_good.recall(self._settings.cache_folder, self._name).banned)
        return self._banned

    def _promotion(self, version: str) -> str:
        """Return the promotion of ``version`` as it was known last, by whoever ran before if need be."""
        if version in self._shelf.known:
            return promotion_of(self._shelf.known[version])
        last = last_good.recall(self._settings.cache_folder, self._name).last
        return last.promotion if last is not None and last.version == version else ""

    def _remember(self) -> None:
        """Write down who forecasts and who must not; a cache that cannot be written costs no more than the memory."""
        version, last = self.seats.version, None
        copy = self._shelf.local_copy(version)
        if copy is not None:
            last = last_good.LastGood(version, self._promotion(version), *copy)
        with suppress(OSError):
            last_good.remember(self._settings.cache_folder, self._name, last_good.Kept(last, self._bans()))


def chain_of(champion: Forecaster | None, company: Company = Company.SINGLE) -> FallbackForecaster:
    """Return who is asked for forecasts, in order of preference; when all step back, scaling is reactive only."""
    return FallbackForecaster(forecasters_of(company, champion))
