"""Wiring between the pure core and the world: ports, the control loop, settings, adapters, commands.

Belongs here: everything that reads or writes outside the process, behind a port. Decisions do not belong here.
"""
