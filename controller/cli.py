"""What can be asked of settings, of the audit log and of the daemon: ``config``, ``explain`` and ``run``."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.errors import BadInput, ForesailError

if TYPE_CHECKING:
    from controller.adapters.kube.policies import ScalingPolicies
    from controller.adapters.sql_audit import AuditEntry, Chain, SqlAudit
    from controller.explain import Section
    from controller.reload import SettingsFile
    from controller.settings import Settings

FAILED = 1
LISTED = 20
CHECKED_ROWS = 2_000  # enough to notice a change near what is shown, in a blink; --verify checks everything

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


@click.group()
def config() -> None:
    """Check a settings file, or print what can be set."""


@config.command("validate")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Lay a setting over the file; repeatable.")
@as_json
def validate(file: Path, overrides: Sequence[str], as_json: bool) -> int:
    """Say whether FILE can be used, and what in it differs from the defaults."""
    from controller.setting_notes import notes_of
    from controller.setting_problems import BadSettings
    from controller.settings import differences, load_settings
    from controller.shards import part_text, part_told

    try:
        settings = load_settings(file, overrides)
        changed, notes, part = differences(file, overrides), notes_of(settings), part_told(settings)
    except BadSettings as error:
        if not as_json:
            raise
        problems = [{"where": p.where, "key": p.key, "what": p.what, "remedy": p.remedy} for p in error.problems]
        print_json({"ok": False, "problems": problems})
        return 2
    if as_json:
        listed = [{"key": d.key, "value": d.value, "default": d.default} for d in changed]
        told = [{"key": note.key, "what": note.what, "remedy": note.remedy} for note in notes]
        shard = {"shard": part} if part else {}
        print_json({"ok": True, "differs_from_defaults": listed, "notes": told, **shard})
        return 0
    click.echo(f"{file}: ok, {len(changed) or 'no'} setting{'' if len(changed) == 1 else 's'} not at the default")
    for d in changed:
        default = f"  (default {json.dumps(d.default)})" if d.default is not None else ""
        click.echo(f"  {d.key} = {json.dumps(d.value)}{default}")
    if part:
        click.echo(part_text(part))
    for note in notes:
        click.echo(f"note: {note.key}: {note.what}\n  -> {note.remedy}")
    return 0


@config.command("schema")
@as_json
def schema(as_json: bool) -> None:  # noqa: ARG001 - it is JSON either way; the option is there on every command
    """Print the JSON Schema of a settings file: every setting with its unit, bounds and default."""
    from controller.settings import settings_schema

    print_json(settings_schema())


@click.command()
@click.argument("entry_id", metavar="[ID|last]", required=False)
@click.option("--audit", "place", metavar="FILE|URL", help="Audit log: a SQLite file, or the URL of a database.")
@click.option(
    "-c", "--config", "settings_file", type=click.Path(path_type=Path), help="Settings of which audit.url is read."
)
@click.option(
    "--all", "quiet_too", is_flag=True, help="List ticks in which nothing was to be done, or all was held, as well."
)
@click.option("--verify", is_flag=True, help="Check every row of the chain, not only the newest.")
@as_json
def explain(
    entry_id: str | None, place: str | None, settings_file: Path | None, quiet_too: bool, verify: bool, as_json: bool
) -> int:
    """Say what was seen, forecast, decided, refused and done in one tick, and why; without an ID, list ticks."""
    from controller.adapters.sql_audit import SqlAudit
    from controller.redaction import redacted

    audit = audit_place(place, settings_file)
    log, shown = SqlAudit.open_existing(audit), redacted(audit)
    try:
        chain = log.verify(None if verify else CHECKED_ROWS)
        if entry_id is None:
            _list_entries(log, chain, quiet_too, as_json)
        else:
            _explain_entry(_whole(log, _entry_named(log, entry_id, shown)), chain, as_json)
    finally:
        log.close()
    if not chain.intact:
        raise ForesailError(
            f"the chain is broken at {chain.broken_at}: {chain.what}",
            shown,
            "somebody changed the audit log; believe nothing from there on",
        )
    return 0


def audit_place(place: str | None, settings_file: Path | None) -> str:
    """Return where the audit log is, by name or by settings."""
    if place is not None:
        return place
    if settings_file is None:
        raise click.UsageError("Give --audit FILE, or -c FILE with the settings of the daemon.")
    from controller.settings import load_settings
    from controller.shards import own_part

    return own_part(load_settings(settings_file)).audit.url


def _entry_named(log: SqlAudit, entry_id: str, audit: str) -> AuditEntry:
    entry = log.read(entry_id)
    if entry is None:
        newest = log.read("last")
        remedy = f"ids go from {log.first_number} to {newest.id}" if newest else "no tick has been recorded yet"
        raise BadInput(f"there is no tick {entry_id!r}", audit, remedy)
    return entry


def _whole(log: SqlAudit, entry: AuditEntry) -> AuditEntry:
    """Return the decision that ``entry`` is the intent or the outcome of, as one; any other entry as it is."""
    from controller.explain import joined

    if "intent" in entry.record:
        intent = log.read(str(entry.record["intent"]))
        return joined(intent, entry) if intent else entry
    return joined(entry, log.outcome_of(entry)) if entry.kind == "intended" else entry


def _newest(log: SqlAudit, quiet_too: bool) -> list[AuditEntry]:
    """Return the newest decisions, newest first; those in which nothing was to be done or tried only if asked for."""
    if quiet_too:
        rows = log.recent(2 * LISTED)
    else:
        rows = log.recent(LISTED, ("acted", "failed", "blind", "broken")) + log.without_outcome(LISTED)
    decisions = {whole.id: whole for whole in (_whole(log, row) for row in rows)}
    return sorted(decisions.values(), key=lambda entry: int(entry.id), reverse=True)[:LISTED]


def _list_entries(log: SqlAudit, chain: Chain, quiet_too: bool, as_json: bool) -> None:
    from controller.explain import listing_of

    with _readable("the audit log"):
        listing = listing_of(_newest(log, quiet_too))
    if as_json:
        rows = [dict(zip(listing.columns, row, strict=True)) for row in listing.rows]
        print_json({"entries": rows, "chain": chain_json(chain)})
        return
    show([listing])
    click.echo(f"{len(log):,} rows on record. {chain_text(chain)}")
    if not quiet_too:
        click.echo("Ticks in which nothing was to be done, or all was held, are left out (--all lists them).")


def _explain_entry(entry: AuditEntry, chain: Chain, as_json: bool) -> None:
    from controller.explain import sections_of

    if as_json:
        row = {"id": entry.id, "at": entry.at, "kind": entry.kind, "hash": entry.hash, "record": entry.record}
        print_json({**row, "chain": chain_json(chain)})
        return
    with _readable(f"tick {entry.id}"):
        sections = sections_of(entry)
    show(sections)
    click.echo(chain_text(chain))


@click.command()
@click.option("-c", "--config", "file", type=click.Path(path_type=Path), help="Settings file; watched for changes.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Lay a setting over the file; repeatable.")
@click.option("--once", is_flag=True, help="Run one tick, print its record as explain does, and end.")
@click.option("--json", "as_json", is_flag=True, help="With --once: print JSON for machines.")
def run(file: Path | None, overrides: Sequence[str], once: bool, as_json: bool) -> int:
    """Watch a fleet, decide every tick, and do what the modes in the settings allow: by default nothing but look."""
    from numpy.random import default_rng

    from controller.adapters.kube.policies import ScalingPolicies
    from controller.adapters.system_clock import SystemClock
    from controller.bootstrap import named_platform
    from controller.daemon_settings import DaemonSettings
    from controller.logs import start_logging
    from controller.reload import SettingsFile

    if as_json and not once:
        raise click.UsageError("--json goes with --once; the daemon's log is JSON wherever it is no terminal.")
    elapsed = SystemClock().elapsed
    start_logging(elapsed, DaemonSettings().log_repeat_s, "warning")  # reading policies may have something to tell
    with closing(ScalingPolicies(elapsed, default_rng())) as policies:
        source = SettingsFile(file, overrides, policies)
        settings = source.load()
        named_platform(settings)  # before an audit log is made for nothing
        level = "warning" if once else settings.daemon.log_level
        start_logging(elapsed, settings.daemon.log_repeat_s, level)
        return _run_once(settings, policies, as_json) if once else _run_on(source, settings, policies)


def _run_once(settings: Settings, policies: ScalingPolicies, as_json: bool) -> int:
    from controller.adapters.sql_audit import SqlAudit
    from controller.bootstrap import Worlds, leadership_of, write_gate
    from controller.daemon import run_once

    leadership = leadership_of(settings)
    gate = write_gate(settings, leadership)
    policies.fence = gate.why_not
    entry_id = run_once(settings, Worlds(gate, policies), leadership=leadership, gate=gate)
    log = SqlAudit.open_existing(settings.audit.url)
    try:
        entry = _whole(log, _entry_named(log, entry_id, ""))
        _explain_entry(entry, log.verify(CHECKED_ROWS), as_json)
    finally:
        log.close()
    return 0 if entry.record.get("decision") else FAILED


def _run_on(source: SettingsFile, settings: Settings, policies: ScalingPolicies) -> int:
    import foresail
    from controller.bootstrap import Worlds, leadership_of, write_gate
    from controller.daemon import Daemon, run_to_the_end

    leadership = leadership_of(settings)
    gate = write_gate(settings, leadership)
    policies.fence = gate.why_not
    world, version = Worlds(gate, policies), foresail.__version__
    return run_to_the_end(Daemon(source, settings, world, version=version, leadership=leadership, gate=gate))


@contextmanager
def _readable(what: str) -> Iterator[None]:
    """Turn a record of another shape into a message: only one that was changed by hand has it."""
    try:
        yield
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ForesailError(
            f"{what} holds a record of another shape than any that is written", remedy="check the chain with --verify"
        ) from error


def chain_json(chain: Chain) -> dict[str, Any]:
    """Return whether the log is as it was written, as JSON values."""
    told = {"intact": chain.intact, "rows_checked": chain.rows, "broken_at": chain.broken_at, "what": chain.what}
    return {**told, "rows_pruned": chain.pruned} if chain.pruned else told


def chain_text(chain: Chain, which: str = "newest") -> str:
    """Return whether the log is as it was written, in one line; ``which`` rows were checked."""
    if not chain.intact:
        return f"CHAIN BROKEN at {chain.broken_at}: {chain.what}."
    pruned = f", {chain.pruned:,} rows before them pruned" if chain.pruned else ""
    return f"Chain intact ({chain.rows:,} {which} rows checked{pruned}), head {chain.head[:12]}."


def show(sections: Sequence[Section]) -> None:
    """Print sections: tables on a terminal, aligned text into a pipe."""
    from controller.explain import as_text

    if not sys.stdout.isatty():
        click.echo("\n\n".join(as_text(section) for section in sections) + "\n")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    for section in sections:
        console.print(Text(section.title, style="bold"))
        if section.rows:
            table = Table(*section.columns, box=None, padding=(0, 2, 0, 2), header_style="dim")
            for row in section.rows:
                table.add_row(*(Text(cell) for cell in row))  # Text: what was recorded is never read as markup
            console.print(table)
        if section.note:
            console.print(Text(f"  {section.note}"))
        console.print()


def print_json(value: object) -> None:
    """Print JSON for machines."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))
