"""How does an interrupted fit go on? One file with everything that changes while a net is fitted.

A safetensors file: numbers, and in its header a JSON text with the course of the fit. Nothing in it can name code to
run. Each write replaces the file as a whole, so an interrupted one leaves the one before.

Importing this module imports torch (2 s): import it late.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from controller.errors import BadInput
from forecasting.features import NetSpec
from forecasting.series import LoadSeries
from training.dataset import Split, data_digest
from training.settings import TrainingSettings

FORMAT = "foresail-fit-1"
_MOST_BYTES = 1 << 30  # weights, their average, the best and two moments: 5 times the 64 MiB of the largest artifact
_FORGET = "name another file, or delete this one to begin anew"


@dataclass(frozen=True, slots=True)
class EpochScore:
    """One pass over the training part. Losses are weighted means in the net's own units."""

    epoch: int
    planned_epochs: int
    train_loss: float
    validation_loss: float
    learning_rate: float
    elapsed_s: float


class CourseFacts(BaseModel):
    """The course of a fit besides its tensors; names as in ``training.course``."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    best_loss: float = Field(description="Least validation loss so far.")
    best_epoch: int = Field(ge=0, description="When that was.")
    progress_epoch: int = Field(ge=0, description="Last epoch with progress worth going on for.")
    untrained_loss: float = Field(description="Validation loss before the first step.")
    stopped: str = Field(max_length=500, description="Why the search ended, empty while it goes on.")
    closed: int = Field(ge=0, description="Closing passes that are done.")
    spent_s: float = Field(ge=0, description="Seconds spent.")
    order: dict[str, Any] = Field(description="State of the generator that orders the windows.")
    epochs: tuple[EpochScore, ...] = Field(max_length=1000, description="Scores of the epochs.")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a fit under way is kept, and which fit it has to be."""

    path: Path
    fingerprint: str

    def write(self, facts: CourseFacts, tensors: Mapping[str, Tensor]) -> None:
        """Replace the file.

        Raises:
            BadInput: If there is no room or no right to write; what was kept before is still whole.
        """
        from safetensors.torch import save

        header = {"format": FORMAT, "fingerprint": self.fingerprint, "course": facts.model_dump_json()}
        content = save({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, header)
        scratch = ""
        try:
            with tempfile.NamedTemporaryFile(dir=self.path.parent, prefix=f".{self.path.name}.", delete=False) as file:
                scratch = file.name
                file.write(content)
            os.replace(scratch, self.path)  # noqa: PTH105 - Path.replace says nothing else
        except OSError as reason:
            with suppress(OSError):
                Path(scratch).unlink(missing_ok=True)
            raise BadInput(
                f"the fit cannot be kept: {reason.strerror}", str(self.path), "make room; the fit goes on from the last"
            ) from reason

    def read(self) -> tuple[CourseFacts, dict[str, Tensor]] | None:
        """Return what was kept, or None if nothing was.

        Raises:
            BadInput: If it is no fit under way, is damaged, or is one of another history or of other settings.
        """
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None
        if not self.path.is_file() or self.path.stat().st_size > _MOST_BYTES:
            raise BadInput("is no fit under way", str(self.path), _FORGET)
        try:
            with safe_open(self.path, framework="pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            if header.get("format") != FORMAT:
                raise BadInput("is no fit under way that this version knows", str(self.path), _FORGET)
            facts = CourseFacts.model_validate_json(header.get("course", ""))
        except (SafetensorError, OSError, ValidationError) as reason:
            raise BadInput("is damaged, or no fit under way", str(self.path), _FORGET) from reason
        if header.get("fingerprint") != self.fingerprint:
            raise BadInput("is a fit of another history or with other settings", str(self.path), _FORGET)
        return facts, tensors


def fingerprint(
    series: Sequence[LoadSeries], splits: Sequence[Split], settings: TrainingSettings, spec: NetSpec, start: str
) -> str:
    """Return the SHA-256 of all that a fit depends on; ``start`` names the net it starts from, empty for none.

    The time budget may be another one the next time.
    """
    content = {
        "data": data_digest(series),
        "splits": [[split.validation_from, split.test_from, split.end] for split in splits],
        "settings": settings.model_dump(mode="json", exclude={"max_fit_s"}),
        "spec": spec.model_dump(mode="json"),
        "start": start,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
