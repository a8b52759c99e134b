"""Which ways of choosing a replica are there? Their names alone, so that the command line starts fast."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

Routing: TypeAlias = Literal["least_connections", "round_robin", "least_response_time", "power_of_two", "prefix_aware"]
ROUTINGS: tuple[Routing, ...] = get_args(Routing)
