"""From history to a promoted model: datasets, fitting, backtests, tracking, the promotion gate.

Belongs here: everything that fits. The controller never imports this package; they meet in the model registry.
"""
