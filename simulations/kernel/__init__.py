"""The compiled core of the simulated fleet: arrays, and functions over them that jump from event to event.

``replica.py`` beside this package is the readable specification of the engine; the tests hold both against each other.
Everything here counts seconds from the start of the run. Requests, replicas and pools are numbers of rows.
"""
