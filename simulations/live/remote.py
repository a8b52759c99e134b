"""How does something happen to a live stack from another terminal, a fault or a rollout: through its platform's API?"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from controller.errors import ActuationError, BadInput
from simulations.live.stack import LiveFiles


def inject(out: Path, replica: str, kind: str, options: Sequence[str]) -> None:
    """Let a fault happen to ``POOL/REPLICA`` of the stack in the folder ``out``; ``POOL/*`` is all of the pool.

    Raises:
        BadInput: If there is no such stack or replica, or the fault is none.
        ActuationError: If the stack does not answer.
    """
    pool, _, name = replica.rpartition("/")
    if not pool:
        raise BadInput(f"{replica!r} names no pool", "POOL/REPLICA", "write for example large/large-0")
    path = f"/v1/pools/{quote(pool, safe='')}/replicas/{quote(name, safe='')}/faults"
    _ask(out, path, _fault(kind, options), f"{kind} at {replica}")


def roll_out(out: Path, pool: str, revision: str, kind: str | None, options: Sequence[str], step_s: float) -> None:
    """Bring a pool of the stack in the folder ``out`` to a revision; ``kind`` is what is wrong with it, if anything.

    Raises:
        BadInput: If there is no such stack or pool, its rollouts are paused, or the fault is none.
        ActuationError: If the stack does not answer.
    """
    body = {"revision": revision, "faults": [_fault(kind, options)] if kind else [], "step_s": step_s}
    _ask(out, f"/v1/pools/{quote(pool, safe='')}/rollout", body, f"revision {revision} of {pool}")


def _ask(out: Path, path: str, body: Mapping[str, Any], what: str) -> None:
    files = LiveFiles(out)
    try:
        platform = json.loads(files.address.read_text())["platform"]
        token = files.token.read_text().strip()
    except (OSError, ValueError, KeyError):
        raise BadInput("no live stack runs here", f"--out {out}", "start one with `foresail live up`") from None
    headers = {"Authorization": f"Bearer {token}"}
    try:
        answer = httpx.post(f"{platform}{path}", json=body, headers=headers, timeout=10.0, trust_env=False)
    except httpx.HTTPError as error:
        raise ActuationError(f"the stack does not answer: {error}", platform) from None
    if answer.is_error:
        raise BadInput(answer.json().get("error", answer.text), what)


def _fault(kind: str, options: Sequence[str]) -> dict[str, Any]:
    return {"kind": kind, **dict(_option(text) for text in options)}


def _option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise BadInput(f"{text!r} is not of the form KEY=VALUE", "KEY=VALUE", "write for example factor=3")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
