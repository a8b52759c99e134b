"""The same control loop on a virtual clock: traces, a request-level fleet, faults, rivals, scorecards.

Belongs here: everything that pretends to be the world, and what is measured in it.
"""
