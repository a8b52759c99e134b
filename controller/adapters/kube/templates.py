"""What does a pod template ask for: which containers, at which ports, with how many GPUs?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from controller.adapters.kube.json_reading import MOST, count, entries, text, under, word, words

_DIGITS = 10
_PORT_NAMES = ("http", "api", "serving")
_LAST_PORT = 65535


@dataclass(frozen=True, slots=True)
class TemplateContainer:
    """One container of a template: ``port`` is the one that it names for HTTP, or its only one."""

    name: str
    port: int | None
    gpus: int


@dataclass(frozen=True, slots=True)
class Template:
    """What is kept of a pod template; ``gpus`` are those of one pod."""

    labels: Mapping[str, str]
    containers: tuple[TemplateContainer, ...]
    gpus: int

    def engine(self, wanted: str) -> tuple[TemplateContainer | None, str]:
        """Return the engine's container, and what is to be said of the choice: nothing where there was none to make.

        It is the one of the name that is ``wanted``, or the only one, or the only one with GPUs, or else the first.
        """
        named = [container for container in self.containers if container.name == wanted]
        if named:
            return named[0], ""
        with_gpus = [container for container in self.containers if container.gpus]
        if wanted:
            note = f"no container is called {wanted!r}"
        elif len(self.containers) > 1 and len(with_gpus) != 1:
            note = "several containers could be the engine: name one as engine_container"
        else:
            note = ""
        chosen = with_gpus if len(with_gpus) == 1 else list(self.containers)
        return (chosen[0], f"{note}; {chosen[0].name} is taken" if note else "") if chosen else (None, note)


def read_template(told: object, gpu_resources: frozenset[str]) -> Template | None:
    """Return what is kept of a pod template; None where there is none."""
    if not isinstance(under(told, "spec"), dict):
        return None
    containers = [
        TemplateContainer(word(entry, "name"), _port(entry), _gpus(entry, gpu_resources))
        for entry in entries(told, "spec", "containers")
    ]
    return Template(words(told, "metadata", "labels"), tuple(containers), gpus_of(under(told, "spec"), gpu_resources))


def gpus_of(pod_spec: object, gpu_resources: frozenset[str]) -> int:
    """Return the GPUs that a pod holds: those of its containers and of sidecars, or of its hungriest step before them.

    A sidecar is an init container that is always restarted. GPUs that are asked for by resource claims are not seen.
    """
    beside, before = 0, 0
    for entry in entries(pod_spec, "initContainers"):
        gpus = _gpus(entry, gpu_resources)
        if text(entry, "restartPolicy") == "Always":
            beside += gpus
        else:
            before = max(before, beside + gpus)
    return min(
        MOST, max(before, beside + sum(_gpus(entry, gpu_resources) for entry in entries(pod_spec, "containers")))
    )


def _gpus(container: object, gpu_resources: frozenset[str]) -> int:
    limits = under(container, "resources", "limits")
    if not isinstance(limits, dict):
        return 0
    return sum(_whole(told) for name, told in limits.items() if name in gpu_resources)


def _whole(told: object) -> int:
    """Return a quantity of what comes in whole pieces: ``8``, ``"8"``; nothing else is one."""
    if isinstance(told, str) and told.isascii() and told.isdigit() and len(told) < _DIGITS:
        return int(told)
    return told if type(told) is int and 0 <= told <= MOST else 0


def _port(container: object) -> int | None:
    ports = [(word(entry, "name"), port) for entry in entries(container, "ports") if (port := port_of(entry))]
    named = [port for name, port in ports if name in _PORT_NAMES]
    if named:
        return named[0]
    return ports[0][1] if len(ports) == 1 else None


def port_of(told: object, key: str = "containerPort") -> int | None:
    """Return a port number; None where there is none."""
    port = count(told, key)
    return port if port and port <= _LAST_PORT else None
