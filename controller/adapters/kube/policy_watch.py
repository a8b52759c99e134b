"""Which ScalingPolicy objects are there, as the API server has told last?"""

from __future__ import annotations

import math
from collections.abc import Callable
from threading import Thread

from numpy.random import Generator

from controller.adapters.kube.changes import Fence
from controller.adapters.kube.client import KubernetesApi
from controller.adapters.kube.kinds import Resource
from controller.adapters.kube.policy_objects import Policy, read_policy
from controller.adapters.kube.policy_schema import GROUP, KIND, PLURAL, VERSION
from controller.adapters.kube.reflector import Reflector, Surroundings
from controller.adapters.kube.settings import KubernetesSettings
from controller.errors import ObservationError

SCALING_POLICIES = Resource(GROUP, VERSION, PLURAL, KIND)
_JOIN_S = 2.0


class PolicyWatch:
    """Watches the policies of the namespaces that are read. Start it before use and close it after."""

    def __init__(
        self, settings: KubernetesSettings, elapsed: Callable[[], float], rng: Generator, fence: Fence
    ) -> None:
        """Take the time from ``elapsed``, seconds that never go back.

        Raises:
            ObservationError: If it cannot be told how the API server is reached.
        """
        self.api = KubernetesApi(settings, elapsed, fence)
        self._settings, self._elapsed = settings, elapsed
        around = Surroundings(self.api, settings, elapsed)
        self.reflectors = [
            Reflector(around, SCALING_POLICIES, "" if name == "*" else name, read_policy, each)
            for name, each in zip(settings.namespaces, rng.spawn(len(settings.namespaces)), strict=True)
        ]
        self._threads: list[Thread] = []

    def start(self) -> None:
        """Begin to watch; returns when everything was listed, or after as long as one answer may take."""
        for reflector in self.reflectors:
            thread = Thread(target=reflector.run, name=f"watch {reflector.store.title}", daemon=True)
            self._threads.append(thread)
            thread.start()
        end_s = self._elapsed() + self._settings.timeout_s
        for reflector in self.reflectors:
            reflector.store.wait_until_listed(max(0.0, end_s - self._elapsed()))

    def close(self) -> None:
        """End the watches and give up the connections."""
        for reflector in self.reflectors:
            reflector.stop()
        end_s = self._elapsed() + _JOIN_S
        for thread in self._threads:
            thread.join(max(0.0, end_s - self._elapsed()))
        self.api.close()

    def policies(self) -> tuple[Policy, ...]:
        """Return the policies, as they were told last, however long ago; none where the kind is not installed.

        Raises:
            ObservationError: If they have never been listed, in all namespaces that are read.
        """
        found = [reflector.store.snapshot(math.inf) for reflector in self.reflectors]
        return tuple([policy for snapshot in found for policy in snapshot.objects.values()])

    def why_none(self) -> str:
        """Return why there can be no policies at all; empty where there can."""
        try:
            refused = [one for each in self.reflectors for one in each.store.snapshot(math.inf).refused]
        except ObservationError as error:
            return error.what
        return str(refused[0]) if refused else ""
