"""How does something go wrong in a live stack from another terminal: through its platform's API?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from controller.errors import ActuationError, BadInput
from simulations.live.stack import LiveFiles


def inject(out: Path, replica: str, kind: str, options: Sequence[str]) -> None:
    """Let a fault happen to ``POOL/REPLICA`` of the stack in the folder ``out``.

    Raises:
        BadInput: If there is no such stack or replica, or the fault is none.
        ActuationError: If the stack does not answer.
    """
    files = LiveFiles(out)
    pool, _, name = replica.rpartition("/")
    if not pool:
        raise BadInput(f"{replica!r} names no pool", "POOL/REPLICA", "write for example large/large-0")
    try:
        platform = json.loads(files.address.read_text())["platform"]
        token = files.token.read_text().strip()
    except (OSError, ValueError, KeyError):
        raise BadInput("no live stack runs here", f"--out {out}", "start one with `foresail live up`") from None
    url = f"{platform}/v1/pools/{quote(pool, safe='')}/replicas/{quote(name, safe='')}/faults"
    body = {"kind": kind, **dict(_option(text) for text in options)}
    try:
        answer = httpx.post(url, json=body, headers={"Authorization": f"Bearer {token}"}, timeout=10.0, trust_env=False)
    except httpx.HTTPError as error:
        raise ActuationError(f"the stack does not answer: {error}", platform) from None
    if answer.is_error:
        raise BadInput(answer.json().get("error", answer.text), f"{kind} at {replica}")


def _option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise BadInput(f"{text!r} is not of the form KEY=VALUE", "KEY=VALUE", "write for example factor=3")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value
