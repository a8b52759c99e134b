"""What does an Xid error of a GPU ask for? A table, since NVIDIA adds codes and changes its advice with its drivers.

``VERSION`` says as of when it holds. It is the table that NVSentinel ships (``charts/.../xiderrorsmapping.csv``), which
follows NVIDIA's Xid catalogue. A code that it does not list asks for a human: whoever acts on what nobody knows resets
GPUs that work.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from enum import StrEnum
from types import MappingProxyType

VERSION = "2026-11"


class XidAction(StrEnum):
    """What a code asks for."""

    NOTHING = "nothing"  # told for the record: what happened is over, or was the application's own doing
    RESTART_ENGINE = "restart the engine"  # the GPU is well, the process that used it is not
    RESET_GPU = "reset the GPU"  # nothing runs on it before that; whatever tends to nodes does it
    RESTART_NODE = "restart the node"  # a GPU has fallen off the bus, or the virtual machine has lost it
    FOLLOW_WORKFLOW = "follow NVIDIA's workflow"  # which of the others it is, only further diagnosis tells
    CHECK_HARDWARE = "check the hardware"  # a cable, a power connector
    UPDATE_SOFTWARE = "update driver or firmware"
    UNKNOWN = "unknown"  # not in the table

    @property
    def elsewhere(self) -> bool:
        """Whether a replica on that GPU has to move to another node: a restart in place would meet the same GPU."""
        return self in (XidAction.RESET_GPU, XidAction.RESTART_NODE, XidAction.CHECK_HARDWARE)

    @property
    def for_people(self) -> bool:
        """Whether only people can say what to do."""
        return self in (XidAction.FOLLOW_WORKFLOW, XidAction.UPDATE_SOFTWARE, XidAction.UNKNOWN)


_CODES: Mapping[XidAction, str] = {
    XidAction.NOTHING: "14 37 38 43 44 63 66 67 92 93 106 107 121 137 141 152 153 157 161",
    XidAction.RESTART_ENGINE: "8 11 13 25 31 32 39-41 60 68-72 75-77 80 82-86 88 89 94 96-105 126-135 139",
    XidAction.RESET_GPU: "46 62 64 95 109 110 119 120 136 140 143 155 156 158 162",
    XidAction.RESTART_NODE: "79 151 160",
    XidAction.FOLLOW_WORKFLOW: "45 48 74 144-150",
    XidAction.CHECK_HARDWARE: "54",
    XidAction.UPDATE_SOFTWARE: "78",
}


def _listed(text: str) -> Iterator[int]:
    for word in text.split():
        first, _, last = word.partition("-")
        yield from range(int(first), int(last or first) + 1)


XID_ACTIONS: Mapping[int, XidAction] = MappingProxyType(
    {code: action for action, text in _CODES.items() for code in _listed(text)}
)


def xid_action(code: float) -> XidAction:
    """Return what a code asks for: 0 and NaN, which say that there was none, ask for nothing.

    >>> [xid_action(code).value for code in (79, 31, 63, 999)]
    ['restart the node', 'restart the engine', 'nothing', 'unknown']
    """
    if math.isnan(code) or code == 0:
        return XidAction.NOTHING
    return XID_ACTIONS.get(int(code), XidAction.UNKNOWN) if float(code).is_integer() else XidAction.UNKNOWN
