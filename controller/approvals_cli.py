"""How does a human answer: ``approvals keygen`` and ``list``, ``approve`` and ``reject``."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from controller.errors import BadInput

if TYPE_CHECKING:
    from controller.adapters.approval_folder import LaidOut
    from controller.approval import Verdict
    from controller.approvals import Proposal
    from controller.approver_keys import PrivateKey
    from controller.settings import Settings

LEAST_ID_CHARS = 6
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)([smhd]?)")
_UNITS_S = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
settings_option = click.option(
    "-c", "--config", "file", type=click.Path(path_type=Path), required=True, help="Settings file of the daemon."
)
key_option = click.option(
    "--key", "key_file", type=click.Path(path_type=Path), required=True, help="Your private key file."
)


@click.group()
def approvals() -> None:
    """List what waits for an approval, or make a key to approve with."""


@approvals.command("keygen")
@click.argument("name")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="File for the private key; never shared.")
@as_json
def keygen(name: str, out: Path, as_json: bool) -> None:
    """Make a key for the approver NAME, and print the line for approvals.approvers in the settings."""
    from controller.approval_settings import is_approver_name
    from controller.approver_keys import make_key_file, public_key_text

    if not is_approver_name(name):
        raise BadInput(f"{name!r} is no name for an approver", "NAME", "use letters, digits and ._@- alone, at most 64")
    public = public_key_text(make_key_file(out).public)
    if as_json:
        click.echo(json.dumps({"name": name, "public_key": public, "private_key_file": str(out)}, indent=2))
        return
    click.echo(f"{name}: {public}")
    click.echo(f"Put this line under approvals.approvers. The private key is in {out}: keep it to yourself.", err=True)


@approvals.command("list")
@settings_option
@as_json
def listed(file: Path, as_json: bool) -> None:
    """List what waits: its id, what exactly would be done, why, and until when."""
    from controller.approvals import proposal_json
    from controller.explain import Section, as_text
    from controller.instants import instant
    from controller.plans import said

    waiting = _waiting(_laid_out(_settings(file)))
    if as_json:
        click.echo(json.dumps({"proposals": [proposal_json(p) for p in waiting]}, indent=2))
        return
    rows = tuple((p.id, p.act, p.subject, instant(p.since_at), instant(p.until_at)) for p in waiting)
    columns = ("id", "act", "subject", "since", "until")
    click.echo(as_text(Section("Waiting for an approval", columns, rows, "" if rows else "nothing")))
    for proposal in waiting:
        click.echo(f"\n{proposal.id}: {proposal.act} {said(proposal.facts)}\n  why: {proposal.why or 'not said'}")


@click.command()
@click.argument("plan_id", metavar="ID")
@settings_option
@key_option
@click.option("--for", "lifetime", metavar="TIME", help="How long it holds, such as 90s, 10m or 1h.")
@as_json
def approve(plan_id: str, file: Path, key_file: Path, lifetime: str | None, as_json: bool) -> None:
    """Let the daemon carry out the plan ID, once, if it still decides the very same."""
    _answer("approve", plan_id, file, key_file, lifetime, "", as_json)


@click.command()
@click.argument("plan_id", metavar="ID")
@settings_option
@key_option
@click.option("--for", "lifetime", metavar="TIME", help="How long it is not proposed again, such as 90s, 10m or 1h.")
@click.option("--why", default="", help="A word for the record.")
@as_json
def reject(plan_id: str, file: Path, key_file: Path, lifetime: str | None, why: str, as_json: bool) -> None:
    """Keep the plan ID from being done or proposed for a while, whoever else approves it."""
    _answer("reject", plan_id, file, key_file, lifetime, why, as_json)


def _answer(
    verdict: Verdict, plan_id: str, file: Path, key_file: Path, lifetime: str | None, why: str, as_json: bool
) -> None:
    from pydantic import ValidationError

    from controller.adapters.approval_folder import drop
    from controller.adapters.system_clock import SystemClock
    from controller.approval import Statement, signed
    from controller.approvals import proposal_json
    from controller.approver_keys import read_key_file
    from controller.instants import instant
    from controller.plans import said

    settings = _settings(file)
    key = read_key_file(key_file)
    approver = _approver_of(key, settings, file, key_file)
    lifetime_s = _lifetime_s(lifetime, settings)
    laid_out = _laid_out(settings)
    proposal = _proposal_named(plan_id, laid_out, settings)
    from_at = SystemClock().now()
    try:
        statement = Statement(
            verdict=verdict,
            plan=proposal.digest,
            memory=laid_out.memory,
            approver=approver,
            from_at=from_at,
            until_at=from_at + lifetime_s,
            why=why,
        )
    except ValidationError as error:
        problem = error.errors()[0]
        if problem["loc"] != ("why",):
            what = f"{'.'.join(map(str, problem['loc']))} is not as the daemon writes it"
            raise BadInput(what, str(settings.approvals.folder), "somebody changed what it laid out") from None
        remedy = "write one line of at most 200 characters"
        raise BadInput("this cannot stand in the record", f"--why {why[:40]!r}", remedy) from None
    drop(settings.approvals.folder, f"{proposal.id}-{statement.id[:16]}.json", signed(statement, key))
    what = f"{proposal.act} {said(proposal.facts)}"
    if as_json:
        answer = {"verdict": verdict, "approver": approver, "approval": statement.id}
        span = {"from_at": statement.from_at, "until_at": statement.until_at}
        click.echo(json.dumps({"proposal": proposal_json(proposal), **answer, **span}, indent=2))
        return
    click.echo(f"{approver} {verdict}s {proposal.id}: {what}")
    click.echo(f"Holds until {instant(statement.until_at)}; the daemon reads it at its next tick.")


def _settings(file: Path) -> Settings:
    from controller.settings import load_settings
    from controller.shards import own_part

    return own_part(load_settings(file))


def _laid_out(settings: Settings) -> LaidOut:
    from controller.adapters.approval_folder import read_proposals

    return read_proposals(settings.approvals.folder)


def _waiting(laid_out: LaidOut) -> Sequence[Proposal]:
    """Return what still waits: a daemon that is there renews what nobody answers in time."""
    from controller.adapters.system_clock import SystemClock

    at = SystemClock().now()
    return [proposal for proposal in laid_out.proposals if at < proposal.until_at]


def _proposal_named(plan_id: str, laid_out: LaidOut, settings: Settings) -> Proposal:
    waiting = _waiting(laid_out)
    found = [p for p in waiting if len(plan_id) >= LEAST_ID_CHARS and p.digest.startswith(plan_id.lower())]
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} plans wait whose id begins with {plan_id!r}" if found else f"no plan {plan_id!r} waits"
    ids = ", ".join(p.id for p in waiting[:10]) or "nothing; it was done, or is no longer decided"
    raise BadInput(what, str(settings.approvals.folder), f"waiting now: {ids}")


def _approver_of(key: PrivateKey, settings: Settings, file: Path, key_file: Path) -> str:
    from controller.approver_keys import approver_keys, public_key_text

    for name, public in approver_keys(settings.approvals.approvers).items():
        if public == key.public:
            return name
    remedy = f"add a line to approvals.approvers in {file}, such as NAME: {public_key_text(key.public)}"
    raise BadInput("this key belongs to no approver in the settings", str(key_file), remedy)


def _lifetime_s(text: str | None, settings: Settings) -> float:
    if text is None:
        return settings.approvals.lifetime_s
    found = _DURATION.fullmatch(text.strip())
    lifetime_s = float(found[1]) * _UNITS_S[found[2]] if found else 0.0
    most_s = settings.approvals.max_lifetime_s
    if not 0 < lifetime_s <= most_s:
        remedy = f"give a time such as 90s, 10m or 1h, at most approvals.max_lifetime_s ({most_s:g} s)"
        raise BadInput(f"{text!r} is no time that an answer may hold", "--for", remedy)
    return lifetime_s
