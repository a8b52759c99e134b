"""Which measured rows does a table of silicon runs hold, by engine? The Parquet that NVIDIA AIConfigurator collects.

A row is one closed loop: model, GPU, tensor parallelism, prompt and output length, concurrency (``batch_size``), mean
TTFT and TPOT. Only engines that do prefill and decode together (``mode`` ``agg``) are read. How many requests a row
stands for is not told; ten per client, as the usual benchmark scripts send, is assumed. Nor is how their lengths vary,
which decides whether requests stay in step with each other: the reader says what to assume.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controller.errors import BadInput
from training.measurements import Measurement

COLUMNS = frozenset(
    {"backend", "backend_version", "model_path", "system", "precision", "mode", "isl", "osl", "batch_size", "tp_size",
     "silicon_ttft_ms", "silicon_tpot_ms"}
)  # fmt: skip
_REQUESTS_PER_CLIENT = 10


@dataclass(frozen=True, slots=True, order=True)
class Engine:
    """What was measured."""

    model: str
    gpu: str
    gpus: int
    precision: str
    backend: str
    version: str

    @property
    def name(self) -> str:
        """Return it as tables call it."""
        return f"{self.model} {self.gpu} tp{self.gpus} {self.precision} {self.backend} {self.version}".replace(
            "  ", " "
        )


def read_silicon(path: Path, lengths: tuple[float, float] = (1.0, 1.0)) -> dict[Engine, list[Measurement]]:
    """Return the measured loads of every engine in the table.

    Args:
        path: The table.
        lengths: Shortest and longest prompt and output, in parts of those that the table tells; drawn evenly, with
            the same seed for every load.

    Raises:
        BadInput: If it is no such table.
    """
    import pandas as pd

    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read as Parquet: {error}", str(path), "give a table of silicon runs") from None
    if not set(table.columns) >= COLUMNS:
        missing = ", ".join(sorted(COLUMNS - set(table.columns)))
        raise BadInput(f"it has no columns {missing}", str(path), "give a table of silicon runs")
    table = table[(table["mode"] == "agg") & table["batch_size"].notna() & table["tp_size"].notna()]
    engines: dict[Engine, list[Measurement]] = {}
    for row in table.itertuples():
        said = [
            str(part) if isinstance(part, str) else "" for part in (row.precision, row.backend, row.backend_version)
        ]
        gpu = str(row.system).removesuffix("_sxm")
        engine = Engine(str(row.model_path), gpu, int(row.tp_size), *said)  # type: ignore[arg-type]  # pandas' row types
        engines.setdefault(engine, []).append(_measurement(row, lengths))
    return dict(sorted(engines.items()))


def _measurement(row: object, lengths: tuple[float, float]) -> Measurement:
    prompt, output, clients = (int(getattr(row, name)) for name in ("isl", "osl", "batch_size"))
    ttft_s, tpot_s = (float(getattr(row, f"silicon_{name}_ms")) * 1e-3 for name in ("ttft", "tpot"))
    rng, count = np.random.default_rng(0), _REQUESTS_PER_CLIENT * clients
    prompts, outputs = (
        np.maximum(1, np.rint(tokens * rng.uniform(*lengths, count))).astype(np.int32) for tokens in (prompt, output)
    )
    return Measurement(
        f"{prompt}+{output} at {clients}",
        prompts,
        outputs,
        concurrency=clients,
        summary={
            ("ttft_s", "mean"): ttft_s,
            ("tpot_s", "mean"): tpot_s,
            ("e2e_s", "mean"): ttft_s + tpot_s * (float(outputs.mean()) - 1.0),
        },
    )
