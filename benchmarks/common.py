"""What the benchmarks share: synthetic cells, clocks, and how figures are kept."""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.sparse as sp

RESULTS = Path(__file__).parent / "results"


def make_cells(num_cells: int, num_genes: int, median_depth: int, seed: int = 0) -> sp.csr_matrix:
    """
    Counts of cells whose molecules are drawn one by one: abundances over four decades, as a transcriptome has, and
    log-normal depths around `median_depth` molecules.
    """
    rng = np.random.default_rng(seed)
    abundance = rng.lognormal(0.0, 2.0, num_genes)
    limits = np.cumsum(abundance / abundance.sum())
    blocks = []
    for start in range(0, num_cells, 2000):
        depths = rng.lognormal(np.log(median_depth), 0.35, min(2000, num_cells - start)).astype(np.int64)
        genes = np.minimum(np.searchsorted(limits, rng.random(depths.sum(), dtype=np.float32)), num_genes - 1)
        keys, counts = np.unique(np.repeat(np.arange(len(depths)), depths) * num_genes + genes, return_counts=True)
        rows, columns = np.divmod(keys, num_genes)
        indptr = np.searchsorted(rows, np.arange(len(depths) + 1))
        block = (counts.astype(np.float32), columns.astype(np.int32), indptr)
        blocks.append(sp.csr_matrix(block, shape=(len(depths), num_genes)))
    return sp.vstack(blocks, format="csr")


def processor_seconds(function: Callable[[], object]) -> float:
    """Processor time of a call: other work on the machine disturbs it less than the time that passes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def describe_machine() -> dict[str, str | int | None]:
    """What figures depend on besides the code."""
    return {
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": 1,
        "python": platform.python_version(),
        "numpy": np.__version__,
    }


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def save(name: str, result: dict) -> None:
    """Writes the figures to `results/{name}.json`."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
