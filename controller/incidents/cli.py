"""What can be asked about incidents on the command line: ``incidents``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.cli import as_json as json_option
from controller.cli import audit_place, chain_json, chain_text, print_json, show
from controller.errors import BadInput, ForesailError

if TYPE_CHECKING:
    from controller.adapters.audit_window import AuditWindow
    from controller.incidents.incident import Incident

PICTURES = (".png", ".svg")


@click.command()
@click.argument("entry_id", metavar="[ID]", required=False)
@click.option("--audit", "place", metavar="FILE|URL", help="Audit log: a SQLite file, or the URL of a database.")
@click.option(
    "-c", "--config", "settings_file", type=click.Path(path_type=Path), help="Settings of which audit.url is read."
)
@click.option("--since", metavar="T", help="Only what was going on at T or later: an instant such as 2026-03-01T08:00 "
              "(UTC), Unix seconds, or a time back from the newest row such as 6h.")  # fmt: skip
@click.option("--until", metavar="T", help="Only what began at T or earlier.")
@click.option("--cause", metavar="CODE", help="Only incidents of which this was believed, such as F1 or hang.")
@click.option("--model", metavar="NAME", help="Only incidents of this model.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="FILE", help="Draw them, as PNG or SVG.")
@json_option
def incidents(
    entry_id: str | None,
    place: str | None,
    settings_file: Path | None,
    plot: Path | None,
    as_json: bool,
    **chosen_by: str | None,
) -> int:
    """Tell from the audit log what went wrong, what was done, and whether what was held would have been right.

    Without an ID, list incidents; with one, tell its story.
    """
    from controller.adapters.audit_window import AuditWindow
    from controller.adapters.sql_audit import SqlAudit
    from controller.redaction import redacted

    if entry_id is not None and any(chosen_by.values()):
        raise click.UsageError("--since, --until, --cause and --model choose from the list; leave them out with an ID.")
    _check_plot(plot)
    audit = audit_place(place, settings_file)
    log, shown = SqlAudit.open_existing(audit), redacted(audit)
    try:
        window = AuditWindow(log.engine)
        newest = window.ends()
        if newest is None:
            raise BadInput("no tick has been recorded yet", shown, "let the daemon run, or simulate with --audit")
        if entry_id is None:
            found = _between(window, chosen_by["since"], chosen_by["until"], newest[2])
            code = _code_of(chosen_by["cause"], found)
            chosen = [
                incident
                for incident in found
                if code in (None, *incident.causes) and chosen_by["model"] in (None, incident.subject.model)
            ]
            _list(chosen, found, window, as_json=as_json)
        else:
            chosen = [_tell(window, entry_id, shown, as_json=as_json)]
    finally:
        log.close()
    if plot is not None:
        from controller.incidents.plot import write_plot

        write_plot(plot, chosen)
        if not as_json:
            click.echo(f"picture: {plot}")
    if not window.chain.intact:
        raise ForesailError(
            f"the chain is broken at {window.chain.broken_at}: {window.chain.what}",
            shown,
            "somebody changed the audit log; believe nothing from there on",
        )
    return 0


def _check_plot(plot: Path | None) -> None:
    if plot is None:
        return
    if plot.suffix.lower() not in PICTURES:
        raise BadInput(
            "no kind of picture that can be drawn", f"--plot {plot}", "name a file that ends in .png or .svg"
        )
    if not plot.resolve().parent.is_dir():
        raise BadInput("there is no such folder", f"--plot {plot}", "name a file in a folder that exists")
    if plot.exists() and not plot.is_file():
        raise BadInput("no ordinary file", f"--plot {plot}", "name a file that may be replaced")
    if not os.access(plot.resolve().parent, os.W_OK):
        raise BadInput("this folder cannot be written to", f"--plot {plot}", "name a file in one of yours")


def _code_of(cause: str | None, found: Sequence[Incident]) -> str | None:
    """Return what records call a cause that is given by code or name; what a record says is always one."""
    from policies.causes import CAUSES

    if cause is None:
        return None
    codes = {code.lower(): code for incident in found for code in incident.causes}
    codes |= {known.code.lower(): known.code for known in CAUSES.values()}
    codes |= {name: known.code for name, known in CAUSES.items()}
    if cause.lower() not in codes:
        known = ", ".join(f"{each.code} {name}" if name != each.code else name for name, each in CAUSES.items())
        raise BadInput(f"there is no cause {cause!r}", "--cause", f"known: {known}")
    return codes[cause.lower()]


def _between(window: AuditWindow, since: str | None, until: str | None, newest_at: float) -> list[Incident]:
    from controller.incidents.reading import incidents_between, instant_of

    since_at, until_at = instant_of(since, "--since", newest_at), instant_of(until, "--until", newest_at)
    if since_at is not None and until_at is not None and since_at > until_at:
        raise BadInput("the time ends before it begins", "--since and --until", "give the earlier one to --since")
    return incidents_between(window, since_at, until_at)


def _list(chosen: Sequence[Incident], found: Sequence[Incident], window: AuditWindow, *, as_json: bool) -> None:
    from controller.incidents.related import related_in
    from controller.incidents.tables import as_json as told
    from controller.incidents.tables import dry_run_line, listing, related_lines, summary_json, summary_line

    related = related_in(found)
    if as_json:
        rows = [told(incident, related.get(incident.id)) for incident in chosen]
        print_json({"incidents": rows, "summary": summary_json(chosen), "chain": chain_json(window.chain)})
        return
    show([listing(chosen)])
    lines = (
        summary_line(chosen),
        dry_run_line(chosen),
        *related_lines(chosen, related),
        chain_text(window.chain, "read"),
    )
    click.echo("\n".join(line for line in lines if line))


def _tell(window: AuditWindow, entry_id: str, shown: str, *, as_json: bool) -> Incident:
    from controller.incidents.reading import incident_named
    from controller.incidents.related import related_in
    from controller.incidents.tables import as_json as told
    from controller.incidents.tables import dry_run_line, story_of

    incident, near = incident_named(window, entry_id, shown)
    related = related_in(near).get(incident.id)
    if as_json:
        print_json({**told(incident, related), "chain": chain_json(window.chain)})
        return incident
    show(story_of(incident, related))
    click.echo("\n".join(line for line in (dry_run_line([incident]), chain_text(window.chain, "read")) if line))
    return incident
