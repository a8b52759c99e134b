"""When did which token of a streamed completion come: server-sent events, fed as they arrive, however they are cut."""

from __future__ import annotations

import json
import math

_END = b"data: [DONE]"
_MOST_HELD_BYTES = 1_048_576


class EventStream:
    """What has been read of one stream.

    Attributes:
        first_token_at: Arrival of the first event; NaN before.
        last_token_at: Arrival of the newest event that is not the end.
        events: Events so far, without the end.
        done: Whether the end has come. A stream without it was cut.
        broken: Whether the server sent an error in the stream, or something that is no event stream.
    """

    __slots__ = ("_newest", "_rest", "broken", "done", "events", "first_token_at", "last_token_at")

    def __init__(self) -> None:
        self.first_token_at = self.last_token_at = math.nan
        self.events = 0
        self.done = False
        self.broken = False
        self._rest = b""
        self._newest = b""

    def feed(self, data: bytes, at: float) -> None:
        """Read on: ``data`` came at ``at``."""
        *whole, self._rest = (self._rest + data).split(b"\n\n")
        if len(self._rest) > _MOST_HELD_BYTES:
            self.broken, self._rest = True, b""
        for event in whole:
            if event.startswith(_END):
                self.done = True
            elif event.startswith(b'data: {"error"'):
                self.broken = True
            elif event.startswith(b"data:"):
                if not self.events:
                    self.first_token_at = at
                self.events += 1
                self.last_token_at = at
                self._newest = event

    @property
    def tokens(self) -> int:
        """Tokens generated: as the server counts them where it does, otherwise one per event."""
        try:
            usage = json.loads(self._newest.removeprefix(b"data:")).get("usage")
            return int(usage["completion_tokens"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return self.events
