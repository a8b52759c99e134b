"""What load is coming, and how sure are we: series, forecasts, forecasters, calibration, artifacts.

Belongs here: numbers in, numbers out. Nothing in this package reads a clock, a socket or a registry,
and nothing in it knows what a replica is.
"""
