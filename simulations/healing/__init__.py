"""How well are failures found and put right? Seeded worlds for every failure, ground truth, rivals and a verdict each.

Which side knows what: worlds, truths and witness know what really happens; policies see what a controller sees.
"""
