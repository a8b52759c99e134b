"""Compile the kernel ahead of its first use: ``python -m simulations.kernel``."""

from __future__ import annotations

import numpy as np

from policies.profile_catalogue import profile_named
from policies.slo import ServiceObjective
from simulations.benchmark import sustained_load
from simulations.case import DEFAULT_PROFILE
from simulations.fleet_kernel import FleetKernel
from simulations.kernel.arrays import Timing


def main() -> None:
    """Call every entry once."""
    profile = profile_named(DEFAULT_PROFILE)
    kernel = FleetKernel([profile], Timing(60.0, 600.0, 15.0, 2.0, 0.1), 2)
    kernel.begin_life(kernel.add_replica(0))
    kernel.no_more_arrivals()
    kernel.run(1.0, arrivals_too=True)
    lengths = np.full(1, 100, np.int32)
    sustained_load(profile, ServiceObjective(), lengths, lengths, 0)


if __name__ == "__main__":
    main()
