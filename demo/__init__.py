"""The main job on one file of cells: train, reload, annotate, describe, generate, measure, report."""

from .run import run_demo

__all__ = ["run_demo"]
