"""Which sub-command lives where: the command line of Foresail in one page.

A sub-command is imported when it is called, so that ``foresail --help`` answers at once although some commands need
torch, MLflow or matplotlib.
"""

from __future__ import annotations

import sys

FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130

try:
    import errno
    import os
    from collections.abc import Sequence
    from importlib import import_module
    from typing import NamedTuple

    import click

    from controller.errors import BadInput, ForesailError
except KeyboardInterrupt:  # whoever is that quick needs no traceback either
    sys.exit(INTERRUPTED)

__version__ = "0.1.0"

_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})


class SubCommand(NamedTuple):
    """Where a sub-command is, as ``module:name``, and what the list of commands says about it."""

    where: str
    summary: str


SUB_COMMANDS = {
    "demo": SubCommand("training.demo:demo", "Watch the whole closed loop on a simulated fleet, faults included."),
    "simulate": SubCommand("simulations.cli:simulate", "Replay a trace with one policy and count what happened."),
    "compare": SubCommand("simulations.cli:compare", "Replay a trace with several policies, side by side."),
    "tune": SubCommand("simulations.cli:tune", "Search settings that would have done better on a trace."),
    "scenarios": SubCommand("simulations.trace_cli:scenarios", "List the scenarios that come with Foresail."),
    "trace": SubCommand("simulations.trace_cli:trace", "Make a trace from others, or show what is in one."),
    "train": SubCommand("training.train_cli:train", "Fit forecasters to a load history and register them."),
    "backtest": SubCommand("training.cli:backtest", "Score forecasters on the past, as it would have looked then."),
    "detect": SubCommand("training.detect_cli:detect", "Score how odd each value of a metric is, as it comes."),
    "promote": SubCommand("training.promote_cli:promote", "Make a registered model the champion."),
    "run": SubCommand("controller.cli:run", "Watch a fleet, decide every tick, and do what the settings allow."),
    "live": SubCommand("simulations.live.cli:live", "Run a real fleet on this machine, steered by the daemon."),
    "config": SubCommand("controller.cli:config", "Check a settings file, or print its JSON Schema."),
    "doctor": SubCommand("controller.doctor:doctor", "Say what cluster and metrics store lack, and what that costs."),
    "bench": SubCommand("foresail:bench", "Measure how fast Foresail is on this machine."),
    "approvals": SubCommand("controller.approvals_cli:approvals", "List what waits for an approval; make a key."),
    "approve": SubCommand("controller.approvals_cli:approve", "Let the daemon carry out what waits, once."),
    "reject": SubCommand("controller.approvals_cli:reject", "Keep what waits from being done for a while."),
    "explain": SubCommand("controller.cli:explain", "Say what was seen, decided, refused and done, and why."),
    "incidents": SubCommand(
        "controller.incidents.cli:incidents", "Tell what went wrong, what was done, and how it ended."
    ),
    "playbooks": SubCommand(
        "simulations.playbooks_cli:playbooks", "List what healing does step by step, check your own, and try them."
    ),
    "profile": SubCommand("training.profile_cli:profile", "Make engine profiles from measurements, and check them."),
}

BENCHES = {
    "tick": SubCommand("simulations.bench_tick:tick", "Time whole ticks of a large fleet seen through Prometheus."),
    "simulator": SubCommand("simulations.speed:simulator", "Count the requests that are simulated in a second."),
    "healing": SubCommand("simulations.healing.bench_cli:healing", "Play every failure and count what was put right."),
    "forecast": SubCommand("training.bench_forecast:forecast", "Time one batched forecast of many workloads."),
    "training": SubCommand("training.bench_training:training", "Time full trainings by the number of workloads."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called, not when they are listed."""

    table = SUB_COMMANDS

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of the table above."""
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None when there is no such one."""
        if cmd_name not in self.table:
            return None
        module, name = self.table[cmd_name].where.split(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.summary) for name, command in self.table.items()])


class LazyBenches(LazyGroup):
    """The same for what can be measured."""

    table = BENCHES


@click.group(cls=LazyBenches)
def bench() -> None:
    """Measure how fast Foresail is on this machine."""


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="foresail")
def commands() -> None:
    """Keep a fleet of LLM serving engines at the right size and in good health."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 ok, 1 failed, 2 bad input, 130 interrupted.

    An exception outside ``ForesailError`` is a bug and keeps its traceback, unless nothing more can be written. A
    reader that leaves early, such as ``head``, ends the command without a word.
    """
    try:
        code = commands.main(args=arguments, prog_name="foresail", standalone_mode=False)
        if sys.stdout is not None:  # as it is where it was closed
            sys.stdout.flush()
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OSError as error:
        if error.errno not in _NO_ROOM | {errno.EPIPE}:
            raise
        _give_up_stdout()
        if error.errno != errno.EPIPE:
            remedy = "make room there, or send it elsewhere"
            click.echo(f"foresail: error: the output cannot be written: {error.strerror}\n  -> {remedy}", err=True)
        return FAILED
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except ForesailError as error:
        click.echo(f"foresail: error: {error}", err=True)
        return BAD_INPUT if isinstance(error, BadInput) else FAILED
    return code if isinstance(code, int) else 0


def _give_up_stdout() -> None:
    """Let what is still buffered for stdout go nowhere: at the end Python would try, and fail, to write it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
