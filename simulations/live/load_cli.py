"""What can be asked of the load player on the command line, and what it prints."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import click

from controller.errors import BadInput, ForesailError
from policies.slo import ServiceObjective
from simulations.generator import GeneratedTrace
from simulations.live.load_client import Target
from simulations.live.load_player import LoadPlayer, LoadSettings
from simulations.live.load_report import LoadRow, LoadSummary
from simulations.trace import Trace
from simulations.trace_files import open_trace
from simulations.trace_views import scaled, sliced


def trace_part(
    path: str,
    *,
    scale: float = 1.0,
    start_s: float | None = None,
    duration_s: float | None = None,
    trace_model: str | None = None,
    token_shape: str = "chat",  # noqa: S107  (no password)
    arrivals: str = "poisson",
    seed: int = 0,
) -> Trace:
    """Return the part of a trace that ``simulate`` would replay with the same options.

    Args:
        path: As for ``open_trace``.
        scale: Factor on the load.
        start_s: Seconds into the trace; None begins where a generated trace is eventful, and a recording begins.
        duration_s: Seconds of the trace; None goes on to the end.
        trace_model: Only the requests of this model.
        token_shape: Lengths of the requests of a load series.
        arrivals: How evenly they arrive.
        seed: For all that is drawn.

    Raises:
        BadInput: If there is no such trace, or nothing in that part.
    """
    opened = open_trace(path, seed=seed, model=trace_model, token_shape=token_shape, arrivals=arrivals)
    if start_s is None and isinstance(opened, GeneratedTrace):
        start_s, eventful_s = opened.settings.eventful_s
        duration_s = eventful_s if duration_s is None else duration_s
    return sliced(scaled(opened, scale, seed), start_s or 0.0, duration_s)


async def _play(trace: Trace, settings: LoadSettings, out: TextIO | None, progress_s: float) -> LoadSummary:
    def write(row: LoadRow) -> None:
        if out is not None:
            out.write(json.dumps(row.as_json(), allow_nan=False) + "\n")

    player = LoadPlayer(trace, settings, write)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, player.stop)
    telling = asyncio.create_task(_tell(player, out, progress_s)) if progress_s > 0 else None
    try:
        return await player.play()
    finally:
        if telling is not None:
            telling.cancel()


async def _tell(player: LoadPlayer, out: TextIO | None, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        if out is not None:
            out.flush()
        so_far = player.summary()
        line = {
            "wall_s": round(so_far.wall_s, 1), "in_flight": player.in_flight, "completed": so_far.completed,
            "client_visible_errors": so_far.client_visible_errors, "ttft_p95_s": so_far.as_json()["ttft_p95_s"],
        }  # fmt: skip
        click.echo(json.dumps(line), err=True)


_SHOWN = (
    "requests", "completed", "failed", "client_visible_errors", "unfinished", "slo_attainment_ratio", "ttft_p50_s",
    "ttft_p95_s", "ttft_p99_s", "tpot_p50_s", "tpot_p95_s", "e2e_p50_s", "e2e_p95_s", "output_tokens_per_s",
    "lateness_p99_s", "lateness_max_s", "peak_in_flight", "wall_s",
)  # fmt: skip


def _show(summary: LoadSummary) -> None:
    figures = summary.as_json()
    for name in _SHOWN:
        value = figures[name]
        click.echo(f"{name:24} {value if not isinstance(value, float) else f'{value:.4f}'}")
    for kind, count in summary.errors.items():
        click.echo(f"  {kind:22} {count}")


@click.command()
@click.option("--trace", default="generated", show_default=True, metavar="FILE", help="Request trace or load series.")
@click.option("--target", required=True, metavar="URL", help="http://127.0.0.1:PORT of an engine or a gateway.")
@click.option("--model", required=True, metavar="NAME", help="Model to ask for; also sent as header x-model.")
@click.option("--scale", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, metavar="K",
              help="Multiply the load by K.")  # fmt: skip
@click.option("--start", "start_s", type=click.FloatRange(min=0), metavar="S", help="Begin S seconds into the trace.")
@click.option("--duration", "duration_s", type=click.FloatRange(min=0, min_open=True), metavar="S",
              help="Replay S seconds of the trace.")  # fmt: skip
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, metavar="X",
              help="Trace seconds per second.")  # fmt: skip
@click.option("--trace-model", metavar="NAME", help="Replay only requests for this model of the trace.")
@click.option("--token-shape", default="chat", show_default=True, metavar="NAME", help="Lengths for a load series.")
@click.option("--arrivals", default="poisson", show_default=True, metavar="NAME", help="Arrivals for a load series.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Equal seeds, equal load.")
@click.option("--max-in-flight", type=click.IntRange(min=1, max=20_000), default=4_000, show_default=True,
              help="Requests at a time; more are counted as not sent.")  # fmt: skip
@click.option("--timeout-s", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True,
              help="From sending a request to its last byte.")  # fmt: skip
@click.option("--ttft-s", type=click.FloatRange(min=0, min_open=True), default=2.0, show_default=True,
              help="Objective for the time to first token.")  # fmt: skip
@click.option("--tpot-s", type=click.FloatRange(min=0, min_open=True), default=0.1, show_default=True,
              help="Objective for the time per output token.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="JSON lines, one per request.")
@click.option("--progress-s", type=click.FloatRange(min=0), default=0.0, metavar="S",
              help="Every S seconds a line on standard error.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def main(
    trace: str, target: str, model: str, out: Path | None, progress_s: float, as_json: bool, **options: Any
) -> None:
    """Replay a trace over HTTP and measure what clients get. Exit code 1 when nothing completed."""
    objective = ServiceObjective(ttft_s=options.pop("ttft_s"), tpot_s=options.pop("tpot_s"))
    sending = {name: options.pop(name) for name in ("speed", "max_in_flight", "timeout_s")}
    try:
        settings = LoadSettings(Target.parse(target), model, objective=objective, **sending)
        part = trace_part(trace, **options)
        with ExitStack() as stack:
            file = stack.enter_context(_opened(out)) if out is not None else None
            gc.collect()
            gc.freeze()  # what was imported is never garbage; a full collection would walk it while requests are due
            summary = asyncio.run(_play(part, settings, file, progress_s))
    except ForesailError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, BadInput) else 1)
    if as_json:
        click.echo(json.dumps(summary.as_json(), indent=2, allow_nan=False))
    else:
        _show(summary)
    sys.exit(0 if summary.completed or not summary.requests else 1)


def _opened(out: Path) -> TextIO:
    try:
        return out.open("w", encoding="utf-8")
    except OSError as error:
        raise BadInput(error.strerror or str(error), f"--out {out}", "name a file in a folder to write to") from None


if __name__ == "__main__":
    main()
