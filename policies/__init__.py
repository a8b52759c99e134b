"""What should be done about it: pure values and functions from a fleet and its forecasts to a decision.

Belongs here: capacity, scaling, stabilization, guardrails, traffic, anomaly, diagnosis, healing. No I/O, no
clock, no logging: what there is to say is returned as reasons. Read ``decide`` first.
"""
