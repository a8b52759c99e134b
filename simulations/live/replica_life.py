"""How does one replica live on real processes: placed, loading, ready, crashed and started again, drained, gone?"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import httpx
from pydantic import BaseModel, ConfigDict, Field

from controller.ports import Clock
from policies.fleet import Phase
from simulations.live.live_pool import EngineSlot, LivePool, LiveReplica
from simulations.live.processes import FreePorts, StartFailed, Supervisor


class PlatformRules(BaseModel):
    """How the platform treats processes: kubelet's rules, in the short times of one machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    most_replicas: int = Field(
        12, ge=1, description="Most replicas over all pools: a hard stop for the machine's sake, whoever asks."
    )
    drain_deadline_s: float = Field(
        120.0, ge=0, description="Seconds a draining replica may take to finish its requests; then it is ended."
    )
    end_grace_s: float = Field(5.0, ge=0, description="Seconds between SIGTERM and SIGKILL of an engine.")
    restart_backoff_s: float = Field(
        2.0, ge=0, description="Seconds before an engine that exited is started again; doubles with each exit."
    )
    restart_backoff_cap_s: float = Field(60.0, ge=0, description="Longest such wait, in seconds.")
    restart_backoff_reset_s: float = Field(
        120.0, gt=0, description="Seconds of serving after which an exit counts as the first again."
    )
    poll_s: float = Field(0.2, gt=0, description="Seconds between looks at an engine's health and at its requests.")
    gpus_per_node: int = Field(8, gt=0, description="GPUs of an imagined node; decides which replicas share one.")


class Surroundings(Protocol):
    """What a replica's life needs of the platform."""

    async def publish(self) -> None:
        """Let gateway and metrics store know what has changed; never raises."""
        ...

    async def in_flight(self, pool: LivePool, replica: LiveReplica) -> int | None:
        """Return the requests of the replica that have not ended; None when that cannot be known."""
        ...

    def note(self, pool: LivePool, replica: LiveReplica, what: str, detail: str = "") -> None:
        """Record what happened."""
        ...


@dataclass(frozen=True, slots=True)
class Machine:
    """Where processes run; ``environment`` is what engines have beside that of this process."""

    supervisor: Supervisor
    ports: FreePorts
    client: httpx.AsyncClient
    clock: Clock
    environment: Mapping[str, str] = field(default_factory=dict)


class ReplicaLife:
    """The task of one replica, from being asked for until it is gone."""

    def __init__(
        self, pool: LivePool, replica: LiveReplica, rules: PlatformRules, machine: Machine, around: Surroundings
    ) -> None:
        self._pool, self._replica = pool, replica
        self._rules, self._machine, self._around = rules, machine, around

    async def run(self) -> None:
        """Live; returns when the process has ended for good and the pool has forgotten the replica."""
        replica = self._replica
        try:
            if not replica.opening:
                await self._unless_leaving(asyncio.sleep(self._pool.template.placement_s))
            while not replica.leaving.is_set():
                await self._one_life()
                if not replica.leaving.is_set():
                    await self._crashed()
            await self._drain()
        finally:
            if replica.child is not None:
                await replica.child.stop(self._rules.end_grace_s)
            self._vacate()
            self._pool.remove(replica, self._machine.clock.now())
            replica.gone.set()
            self._around.note(self._pool, replica, "gone")
            await self._around.publish()

    async def _one_life(self) -> None:
        """Start the engine and return when it has exited or is to leave."""
        replica, machine = self._replica, self._machine
        first = replica.opening and replica.restarts == 0
        ports = machine.ports.take(), machine.ports.take()
        faults = self._pool.faults_of(replica)
        slot = EngineSlot(replica.id, replica.revision, replica.restarts, *ports, opening=first, faults=faults)
        command = self._pool.template.command(slot)
        try:
            replica.child = await machine.supervisor.start(replica.id, command, machine.environment)
        except StartFailed as error:
            machine.ports.give_back(slot.port, slot.admin_port)
            self._around.note(self._pool, replica, "not started", str(error))
            return
        replica.slot = slot
        self._enter(Phase.LOADING)
        await self._around.publish()
        while not await self._healthy(slot):
            if replica.child.exit_code is not None or replica.leaving.is_set():
                return
            await self._unless_leaving(asyncio.sleep(self._rules.poll_s))
        if replica.leaving.is_set():
            return
        self._enter(Phase.READY)
        if first:  # it did not wait its turn: how soon it was there says nothing of those asked for later
            replica.requested_at = replica.since_at
        replica.ready.set()
        await self._around.publish()
        await self._unless_leaving(replica.child.wait())

    async def _healthy(self, slot: EngineSlot) -> bool:
        """Ask as kubelet does, from the engine's own node: also one that the network keeps from everybody else."""
        for port in (slot.port, slot.admin_port):
            try:
                answer = await self._machine.client.get(f"http://127.0.0.1:{port}/health", timeout=2.0)
            except httpx.ConnectError:
                continue
            except httpx.HTTPError:
                return False
            return answer.status_code == 200
        return False

    async def _crashed(self) -> None:
        """Take note that the engine exited, whatever its code, and wait before it is started again in place."""
        replica, rules, now = self._replica, self._rules, self._machine.clock.now()
        served_s = now - replica.since_at if replica.phase is Phase.READY else 0.0
        if served_s >= rules.restart_backoff_reset_s:
            replica.backoffs = 0
        wait_s = min(rules.restart_backoff_cap_s, rules.restart_backoff_s * 2.0**replica.backoffs)
        replica.backoffs += 1
        replica.restarts += 1
        replica.requested_at = now
        code = replica.child.exit_code if replica.child is not None else None
        replica.exit_reason, replica.condemned = replica.condemned or _reason_of(code), ""
        if replica.backoffs > 1:  # as with kubelet, one exit is no loop
            replica.waiting_reason = "CrashLoopBackOff"
        self._vacate()
        self._enter(Phase.FAILED, f"exit code {code}, again in {wait_s:g} s")
        await self._around.publish()
        await self._unless_leaving(asyncio.sleep(wait_s))
        replica.waiting_reason = ""

    async def _drain(self) -> None:
        """Wait until the requests of a replica that was serving have ended, as long as may be."""
        replica, loop = self._replica, asyncio.get_running_loop()
        if not replica.drains or replica.child is None:
            return
        until, quiet = loop.time() + self._rules.drain_deadline_s, 0
        # Quiet twice in a row: a request that was on its way when the endpoint was closed is in flight by then.
        while quiet < 2 and replica.child.exit_code is None and not replica.hurry.is_set():
            if loop.time() > until:
                self._around.note(self._pool, replica, "drain deadline", f"{self._rules.drain_deadline_s:g} s")
                return
            await asyncio.wait([waiting := asyncio.ensure_future(replica.hurry.wait())], timeout=self._rules.poll_s)
            waiting.cancel()
            quiet = quiet + 1 if await self._around.in_flight(self._pool, replica) == 0 else 0

    async def _unless_leaving(self, what: Awaitable[object]) -> None:
        """Wait for ``what``, or until the replica is to leave."""
        waits = [asyncio.ensure_future(what), asyncio.ensure_future(self._replica.leaving.wait())]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def _enter(self, phase: Phase, detail: str = "") -> None:
        if not self._replica.leaving.is_set():  # a verb has decided otherwise meanwhile
            self._replica.enter(phase, self._machine.clock.now())
            self._around.note(self._pool, self._replica, phase.value, detail)

    def _vacate(self) -> None:
        slot, self._replica.slot, self._replica.child = self._replica.slot, None, None
        if slot is not None:
            self._machine.ports.give_back(slot.port, slot.admin_port)


def _reason_of(code: int | None) -> str:
    """Return what an exit is called; nobody but whoever killed it knows more than its code tells."""
    if code is None:
        return ""
    return "Completed" if code == 0 else "Error"
