"""What does the demo leave behind, and may it be written where it is wanted?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from controller.adapters.registry_store import RegistrySettings, check_store
from controller.errors import BadInput, RegistryError
from controller.ports import ActsRecord, AuditLog, TickRecord
from simulations.output_places import check_folder


@dataclass(frozen=True, slots=True)
class DemoFiles:
    """Files under one folder."""

    folder: Path

    @property
    def audit(self) -> Path:
        """Every decision, for ``foresail explain``."""
        return self.folder / "audit.db"

    @property
    def registry(self) -> RegistrySettings:
        """The embedded MLflow store, which keeps the models of earlier demos."""
        return RegistrySettings(store=f"sqlite:///{self.folder / 'mlflow.db'}", cache=self.folder / "models")

    @property
    def picture(self) -> Path:
        """The day as curves."""
        return self.folder / "day.png"

    @property
    def summary(self) -> Path:
        """The figures."""
        return self.folder / "summary.json"

    @classmethod
    def prepared(cls, folder: Path) -> DemoFiles:
        """Return the files under ``folder``, which is made; what an earlier demo decided and drew is removed.

        Raises:
            BadInput: If the folder cannot be written, or holds something else where the model store belongs.
        """
        check_folder(folder)
        files = cls(folder)
        logs = [files.audit.with_name(files.audit.name + ending) for ending in ("", "-wal", "-shm")]
        try:
            folder.mkdir(parents=True, exist_ok=True)
            check_store(files.registry.store, may_create=True)
            for old in (*logs, files.picture, files.summary):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise BadInput(error.strerror or str(error), f"--out {folder}", "name a folder to write to") from None
        except RegistryError as error:
            raise BadInput(error.what, error.where, error.remedy) from None
        return files

    @contextmanager
    def open_audit(self) -> Iterator[NumberedAudit]:
        """Yield an empty audit log.

        Raises:
            AuditError: If it cannot be written.
        """
        from controller.adapters.sql_audit import SqlAudit

        log = SqlAudit.open(f"sqlite:///{self.audit}")
        try:
            yield NumberedAudit(log)
        finally:
            log.close()


@dataclass(slots=True)
class NumberedAudit:
    """An audit log that remembers which id each instant got: a day has a bounded number of ticks."""

    log: AuditLog
    ids: dict[float, str] = field(default_factory=dict)

    def append(self, record: TickRecord) -> str:
        """Store the record and return its id."""
        self.ids[record.at] = self.log.append(record)
        return self.ids[record.at]

    def settle(self, outcome: ActsRecord) -> None:
        """Store what became of the acts of an earlier record."""
        self.log.settle(outcome)
