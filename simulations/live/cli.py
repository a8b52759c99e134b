"""What can be asked of the live stack on the command line: ``live up``, ``live fault`` and ``live rollout``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from controller.errors import BadInput

INTERRUPTED = 130
DEFAULT_OUT = Path("foresail-runs/live")

_FOLDER = click.Path(path_type=Path, file_okay=False)
_FILE = click.Path(path_type=Path)
_out = click.option(
    "--out", type=_FOLDER, default=DEFAULT_OUT, show_default=True, metavar="DIR", help="Folder of the stack."
)


@click.group()
def live() -> None:
    """Run a real fleet on this machine: engine processes, Envoy, Prometheus, the daemon and a load player."""


@live.command("up")
@click.option("--trace", type=_FILE, metavar="FILE", help="Request trace or load series to replay; a rising load of "
              "eight minutes if not given.")  # fmt: skip
@click.option("--scale", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, metavar="K",
              help="Multiply the load by K.")  # fmt: skip
@click.option("--start", "start_s", type=click.FloatRange(min=0), metavar="S", help="Begin S seconds into the trace.")
@click.option("--duration", "duration_s", type=click.FloatRange(min=0, min_open=True), metavar="S",
              help="Replay S seconds of the trace.")  # fmt: skip
@click.option("--speed", type=click.FloatRange(min=0, min_open=True), default=1.0, show_default=True, metavar="X",
              help="Trace seconds per second; the load grows with it.")  # fmt: skip
@click.option("--pool", "pools", multiple=True, metavar="SPEC",
              help="NAME=PROFILE[,replicas=N][,min=N][,max=N][,flavour=vllm|sglang]; repeatable.  [default: "
                   "large=emulated-large,replicas=2,max=6 and small=emulated-small,max=4,flavour=sglang]")  # fmt: skip
@click.option("--lead-time-s", type=click.FloatRange(min=1), default=20.0, show_default=True, metavar="S",
              help="From asking for a replica to READY.")  # fmt: skip
@click.option("--most-replicas", type=click.IntRange(1, 64), default=12, show_default=True, metavar="N",
              help="Hard cap over all pools, whoever asks.")  # fmt: skip
@click.option("--scrape-interval-s", type=click.FloatRange(min=0.5, max=60), default=2.0, show_default=True,
              metavar="S", help="Seconds between scrapes.")  # fmt: skip
@click.option("-c", "--config", type=_FILE, metavar="FILE", help="Settings file, laid over those of the live stack.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Lay a setting over it; repeatable.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N", help="Of the load.")
@click.option("--no-player", "player", is_flag=True, flag_value=False, default=True,
              help="Send no load; runs until it is interrupted.")  # fmt: skip
@_out
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines at the end.")
def up(out: Path, pools: Sequence[str], config: Path | None, trace: Path | None, as_json: bool, **options: Any) -> int:
    """Bring a fleet up, let the daemon run it, show what happens, and take everything down at the end or on Ctrl-C.

    Other programs may send load too: live.json in the folder says where everything listens.
    """
    import asyncio
    import os
    import sys

    from rich.console import Console

    from simulations.live.live_options import DEFAULT_POOLS, LiveOptions, PoolChoice
    from simulations.live.live_report import tell
    from simulations.live.up import run_live
    from simulations.live_screen import only_ascii

    if trace is not None and not trace.is_file():
        raise BadInput("there is no such file", f"--trace {trace}", "give a request trace or a load series")
    chosen = LiveOptions(
        out, tuple(map(PoolChoice.parse, pools or DEFAULT_POOLS)), trace=trace, config=config, **options
    )
    console = Console(file=sys.stderr if as_json else sys.stdout)
    ascii_only = only_ascii(console, os.environ)
    click.echo(f"starting in {out} ...", err=True)

    def ready(stack: Any) -> None:
        click.echo(f"up: gateway {stack.envoy.url} (header x-model: {chosen.model})", err=True)

    try:
        report = asyncio.run(run_live(chosen, console, ascii_only, ready))
    except (asyncio.CancelledError, KeyboardInterrupt):
        click.echo("interrupted while starting; everything is stopped", err=True)
        return INTERRUPTED
    from simulations.live.stack import LiveFiles

    if as_json:
        click.echo(json.dumps(report.as_json(), indent=2, allow_nan=False))
    else:
        tell(console, report, LiveFiles(out))
    return 0


@live.command("fault")
@click.argument("replica", metavar="POOL/REPLICA")
@click.argument("kind")
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@_out
def fault(replica: str, kind: str, options: Sequence[str], out: Path) -> None:
    """Let something go wrong in a running stack.

    KIND is kill (as kill -9 does), oom (the same by the kernel), hang (running=stuck or zero), slow (factor=3), errors
    (share=1), kv-thrash, refuse (no connections), exporter-freeze, xid (code=79), exit (code=0); those that last take
    duration_s=S, and clear ends them. 'POOL/*' is all of a pool, and what comes in it. Example: foresail live fault
    large/large-0 hang running=zero
    """
    from simulations.live.remote import inject

    inject(out, replica, kind, options)
    click.echo(f"{kind} at {replica}")


@live.command("rollout")
@click.argument("pool")
@click.argument("revision")
@click.argument("kind", required=False)
@click.argument("options", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--step-s", type=click.FloatRange(min=0, max=3600), default=0.0, show_default=True, metavar="S",
              help="Seconds that a new replica serves before an old one is given up.")  # fmt: skip
@_out
def rollout(
    pool: str, revision: str, kind: str | None, options: Sequence[str], step_s: float, out: Path
) -> None:  # fmt: skip
    """Bring a pool of a running stack to another revision, as a pipeline would that knows nothing of the daemon.

    With a KIND (start-crash, errors, hang, slow, ...: see ``live fault``) every engine of that revision has this fault
    from its start. Example: foresail live rollout large 2 errors share=0.8
    """
    from simulations.live.remote import roll_out

    roll_out(out, pool, revision, kind, options, step_s)
    click.echo(f"{pool} goes to revision {revision}")
