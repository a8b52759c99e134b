"""Other autoscalers behind the same loop, one file each: what Foresail is measured against.

Belongs here: how a rival sizes pools, as faithfully as its sources tell. None of them heals or moves traffic by load.
"""
