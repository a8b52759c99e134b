"""How does a fault reach a replica's process: as a signal, or through the admin port of its engine?"""

from __future__ import annotations

import json
import signal

import httpx

from controller.errors import ActuationError, BadInput
from simulations.live.engine_faults import is_lasting, parse_fault
from simulations.live.live_pool import Fault, LivePool, LiveReplica

EVERY = "*"
"""In the place of a replica's name: all of the pool."""

CLEAR = "clear"
KILLS = {"kill": "", "oom": "OOMKilled"}
"""Faults that end the process from outside, and what the exit is called where its code does not say."""

_PATIENCE_S = 5.0


def checked(fault: Fault, where: str) -> None:
    """Raise ActuationError if there is no such fault."""
    if fault.get("kind") in (*KILLS, CLEAR):
        return
    try:
        parse_fault(json.dumps(dict(fault)).encode())
    except BadInput as error:
        raise ActuationError(f"{error.where}: {error.what}", where, error.remedy) from None


def checked_of_revision(fault: Fault, where: str) -> None:
    """Raise ActuationError if an engine cannot have the fault from its start."""
    checked(fault, where)
    kind = fault.get("kind")
    if kind in (*KILLS, CLEAR, "exit"):
        raise ActuationError(f"{kind} is nothing that an engine has from its start", where, "give start-crash, for one")


def is_of_pool(fault: Fault) -> bool:
    """Return whether a fault of all replicas is one of those to come as well: it lasts until it is cleared."""
    if fault.get("kind") in (*KILLS, CLEAR):
        return False
    return is_lasting(parse_fault(json.dumps(dict(fault)).encode())) and fault.get("duration_s") is None


async def inflict(client: httpx.AsyncClient, pool: LivePool, replica: LiveReplica, fault: Fault) -> None:
    """Let the fault happen; raises ActuationError if there is no process, or the engine refuses it."""
    where, kind = pool.key.replica(replica.id), fault.get("kind")
    if replica.child is None or replica.slot is None:
        raise ActuationError("it has no process at the moment", where)
    if kind in KILLS:
        replica.condemned = KILLS[kind]
        replica.child.signal(signal.SIGKILL)
        return
    url, how = f"http://127.0.0.1:{replica.slot.admin_port}/faults", "DELETE" if kind == CLEAR else "POST"
    try:
        answer = await client.request(how, url, json=dict(fault), timeout=_PATIENCE_S)
    except httpx.HTTPError as error:
        if kind == "exit":
            return  # it is gone before it has answered
        raise ActuationError(f"its admin port does not answer: {error}", where) from None
    if answer.is_error:
        raise ActuationError(f"the engine refuses the fault: {answer.text[:500]}", where)
