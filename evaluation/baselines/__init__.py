"""The rows that keep a table honest: one file each, saying which claim it bounds.

They see real cells, labels and a seed, never the model.
"""
