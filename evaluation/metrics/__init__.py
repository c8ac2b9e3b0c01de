"""Metrics as pure functions on arrays. On several processes, gather the predictions first.

Each docstring argues for its metric and names its space and parameters. Nothing here imports a model.
"""
