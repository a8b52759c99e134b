"""What does a page say about how to get its figures again?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from simulations.comparison import named
from simulations.job import RunReport


def origin(
    reports: Sequence[RunReport],
    settings: Mapping[str, Any],
    provenance: Mapping[str, Any],
    pictures: Mapping[str, str],
) -> str:
    """Return the section with command, versions, digests, settings, runs and the files beside the page."""
    parts = [
        "<section><h2>Get it again</h2>",
        command_and_digests(provenance, "Equal inputs and seeds give equal digests, on any machine."),
        _beside(pictures),
        f"<details><summary>Settings</summary>{_listed(settings)}</details>",
        f"<details><summary>All {len(reports)} runs, with their digests</summary>{_runs(reports)}</details></section>",
    ]
    return "\n".join(part for part in parts if part)


def command_and_digests(provenance: Mapping[str, Any], promise: str) -> str:
    """Return what ``provenance.Provenance.as_json`` says, with the ``promise`` that its command keeps."""
    traces = {
        f"trace {each['trace']}": "generated" if each["sha256"] is None else _sha(each["sha256"], each["size_bytes"])
        for each in provenance.get("traces", ())
    }
    digests = {**traces, "settings": _sha(provenance["settings_sha256"])} if provenance else {}
    command = provenance.get("command", "")
    said = f"<p>{promise}</p><pre>{escape(command)}</pre>\n" if command else ""
    return said + _listed({**provenance.get("versions", {}), **digests})


def _sha(digest: str, size_bytes: int | None = None) -> str:
    return f"sha256 {digest}" + ("" if size_bytes is None else f", {size_bytes:,} bytes")


def _listed(facts: Mapping[str, Any]) -> str:
    items = "".join(f"<dt>{escape(str(name))}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items())
    return f"<dl class='facts'>{items}</dl>"


def _beside(pictures: Mapping[str, str]) -> str:
    links = [f"<a href='{escape(name)}'>{escape(name)}</a> ({escape(words)})" for name, words in pictures.items()]
    links.append("<a href='compare.json'>compare.json</a> (all figures)")
    return f"<p>Beside this page: {', '.join(links)}.</p>"


def _runs(reports: Sequence[RunReport]) -> str:
    head = "".join(f"<th scope='col'>{title}</th>" for title in ("run", "trace", "seed", "wall s", "decisions digest"))
    body = "".join(
        f"<tr><th scope='row'>{escape(named(report.scorecard.policy, report.variant))}</th>"
        f"<td>{escape(report.trace)}</td><td>{report.seed}</td><td>{report.scorecard.wall_s:.1f}</td>"
        f"<td class='digest'>{escape(report.scorecard.decisions_digest)}</td></tr>"
        for report in reports
    )
    region = "<div class='wide' role='region' tabindex='0' aria-label='All runs'>"
    return f"{region}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
