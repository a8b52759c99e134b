"""How close is a live engine to the simulated one, for the same requests at the same instants?

``python -m simulations.live.fidelity --trace F --duration 60`` starts one engine process, replays the slice over HTTP,
runs the simulator's replica on the same arrivals, and prints how far TTFT and TPOT are apart, request by request.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import click
import numpy as np

from controller.errors import ForesailError
from forecasting.series import FloatArray
from policies.engine_profile import EngineProfile
from policies.profile_catalogue import profile_named
from simulations.live.engine_process import engine_process
from simulations.live.load_cli import trace_part
from simulations.live.load_client import Target
from simulations.live.load_player import LoadPlayer, LoadSettings
from simulations.live.load_report import LoadRow
from simulations.replica import EngineRequest, ReplicaEngine, run_alone
from simulations.trace import Trace


@dataclass(frozen=True, slots=True)
class Latencies:
    """``float64[N]`` seconds each, request by request."""

    ttft_s: FloatArray
    tpot_s: FloatArray


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Live against simulated: quantiles of both, and of the difference per request (live minus simulated, absolute)."""

    requests: int
    completed: int
    ttft_p50_s: tuple[float, float]
    ttft_p95_s: tuple[float, float]
    tpot_p50_s: tuple[float, float]
    tpot_p95_s: tuple[float, float]
    ttft_error_p50_s: float
    ttft_error_p95_s: float
    tpot_error_p50_s: float
    tpot_error_p95_s: float
    lateness_p99_s: float


def simulated(trace: Trace, profile: EngineProfile) -> Latencies:
    """Return what the simulator's replica gives each request of the trace, alone and in order of arrival."""
    arrivals: list[tuple[float, EngineRequest]] = []
    for batch in trace.batches():
        columns = zip(batch.arrival_s, batch.prompt_tokens, batch.output_tokens, strict=True)
        arrivals += [(float(at), EngineRequest(int(prompt), int(output))) for at, prompt, output in columns]
    first: dict[EngineRequest, float] = {}
    last: dict[EngineRequest, float] = {}
    engine: ReplicaEngine[EngineRequest] = ReplicaEngine(profile)
    for now in run_alone(engine, arrivals):
        for request in engine.first_tokens:
            first.setdefault(request, now)
        for request in engine.finished:
            last[request] = now
            first.setdefault(request, now)
    return Latencies(
        np.array([first[request] - at for at, request in arrivals]),
        np.array([(last[r] - first[r]) / max(r.output_tokens - 1, 1) for _, r in arrivals]),
    )


async def measured(trace: Trace, settings: LoadSettings) -> list[LoadRow]:
    """Return each request of the trace as a client of ``settings.target`` saw it, in order of arrival."""
    rows: list[LoadRow] = []
    await LoadPlayer(trace, settings, rows.append).play()
    return sorted(rows, key=lambda row: row.row)


def compared(rows: Sequence[LoadRow], model: Latencies) -> Fidelity:
    """Return how far apart they are, over the requests that completed."""
    done = np.array([row.error is None for row in rows])
    ttft_s = np.array([row.ttft_s for row in rows])[done]
    tpot_s = np.array([row.tpot_s for row in rows])[done]
    ttft_error, tpot_error = np.abs(ttft_s - model.ttft_s[done]), np.abs(tpot_s - model.tpot_s[done])

    def at(values: FloatArray, level: float) -> float:
        return float(np.quantile(values, level))

    return Fidelity(
        requests=len(rows),
        completed=int(done.sum()),
        ttft_p50_s=(at(ttft_s, 0.5), at(model.ttft_s, 0.5)),
        ttft_p95_s=(at(ttft_s, 0.95), at(model.ttft_s, 0.95)),
        tpot_p50_s=(at(tpot_s, 0.5), at(model.tpot_s, 0.5)),
        tpot_p95_s=(at(tpot_s, 0.95), at(model.tpot_s, 0.95)),
        ttft_error_p50_s=at(ttft_error, 0.5),
        ttft_error_p95_s=at(ttft_error, 0.95),
        tpot_error_p50_s=at(tpot_error, 0.5),
        tpot_error_p95_s=at(tpot_error, 0.95),
        lateness_p99_s=at(np.array([row.lateness_s for row in rows]), 0.99),
    )


@click.command()
@click.option("--trace", default="generated", show_default=True, metavar="FILE")
@click.option("--profile", default="llama-3.1-70b-a100-tp4", show_default=True, metavar="NAME")
@click.option("--scale", type=float, default=1.0, show_default=True)
@click.option("--start", "start_s", type=float, metavar="S")
@click.option("--duration", "duration_s", type=float, default=60.0, show_default=True, metavar="S")
@click.option("--seed", type=int, default=0, show_default=True)
def main(trace: str, profile: str, scale: float, start_s: float | None, duration_s: float, seed: int) -> None:
    """Replay a slice against one live engine and against the simulated one, and print how far they are apart."""
    try:
        chosen = profile_named(profile)
        part = trace_part(trace, scale=scale, start_s=start_s, duration_s=duration_s, seed=seed)
        with engine_process("--profile", profile, "--id", "fidelity") as engine:
            settings = LoadSettings(Target.parse(engine.url), chosen.model)
            rows = asyncio.run(measured(part, settings))
        click.echo(json.dumps(asdict(compared(rows, simulated(part, chosen))), indent=2))
    except (ForesailError, ValueError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
