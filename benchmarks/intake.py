"""Count matrix to gene tokens: cells per second, against the loop of scGPT.

    OMP_NUM_THREADS=1 python benchmarks/intake.py [--cells 100000] [--genes 30000]

The peer is written from the description of scGPT's binning and `tokenize_batch` (Cui et al. 2024): each cell as a
dense row, its bins by `np.quantile` and two `np.digitize`, then its nonzero genes behind `<cls>`, as tensors. It takes
one cell at a time, so that a sample of the cells shows its speed. Both keep all genes of a cell and run in one thread,
in turns, and the quickest of some rounds counts.
"""

import argparse
from functools import partial

import numpy as np
import scipy.sparse as sp
import torch
from common import as_table, describe_machine, make_cells, processor_seconds, save
from tqdm import tqdm

from scmmgpt import ScMMGPTFeatureExtractor

NUM_BINS, PAD_VALUE = 51, -2.0
# As a corpus is built; all tokens of all cells together would take gigabytes.
CELLS_AT_A_TIME = 20_000


def tokenize_like_scgpt(cells: sp.csr_matrix, cls_id: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Token ids and values of each cell; the vocabulary has the order of the columns."""
    rng, gene_ids = np.random.default_rng(0), np.arange(cells.shape[1])
    binned = []
    for row in cells.toarray():
        expressed = row.nonzero()
        values = row[expressed]
        edges = np.quantile(values, np.linspace(0, 1, NUM_BINS - 1))
        left, right = np.digitize(values, edges), np.digitize(values, edges, right=True)
        bins = np.zeros_like(row, dtype=np.int64)
        bins[expressed] = np.ceil(rng.random(len(values)) * (left - right) + right)
        binned.append(bins)
    tokens = []
    for row in np.stack(binned):
        expressed = np.nonzero(row)[0]
        ids, values = np.insert(gene_ids[expressed], 0, cls_id), np.insert(row[expressed], 0, PAD_VALUE)
        tokens.append((torch.from_numpy(ids).long(), torch.from_numpy(values).float()))
    return tokens


def tokenize(cells: sp.csr_matrix, names: list[str], extractor: ScMMGPTFeatureExtractor) -> int:
    """Matching of names, alignment and encoding; the number of tokens."""
    num_tokens = 0
    for start in range(0, cells.shape[0], CELLS_AT_A_TIME):
        aligned = extractor.align(cells[start : start + CELLS_AT_A_TIME], gene_names=names)
        limits, _, _ = extractor.encode(aligned.indptr, aligned.gene_ids, aligned.counts)
        num_tokens += int(limits[-1])
    return num_tokens


def measure(num_cells: int, num_genes: int, peer_cells: int, rounds: int) -> dict:
    """Cells per second of the peer and of scMMGPT, for files in the vocabulary's order of genes and in another."""
    cells = make_cells(num_cells, num_genes, median_depth=1700)
    names = [f"GENE{i}" for i in range(num_genes)]
    shuffled = np.random.default_rng(1).permutation(names).tolist()
    peer = f"scGPT's loop, measured on {peer_cells:,} cells"
    runs = {peer: (peer_cells, partial(tokenize_like_scgpt, cells[:peer_cells], num_genes + 1))}
    for order, vocab in (("the vocabulary's order", names), ("another order", shuffled)):
        for encoding in ("binned", "log1p"):
            settings = {"value_encoding": encoding, "num_bins": NUM_BINS, "max_genes": num_genes + 1}
            extractor = ScMMGPTFeatureExtractor.from_genes(vocab, **settings)
            run = partial(tokenize, cells, names, extractor)
            runs[f"scMMGPT, {encoding}, file in {order}"] = (num_cells, run)
    seconds = dict.fromkeys(runs, np.inf)
    for _ in tqdm(range(rounds)):
        for what, (_, run) in runs.items():
            seconds[what] = min(seconds[what], processor_seconds(run))
    speed = {what: runs[what][0] / seconds[what] for what in runs}
    return {
        "cells": num_cells,
        "genes": num_genes,
        "expressed_genes_per_cell": cells.nnz / num_cells,
        "peer_cells": peer_cells,
        "machine": describe_machine(),
        "cells_per_second": speed,
        "ratio_to_peer": {what: speed[what] / speed[peer] for what in runs},
    }


def main() -> None:
    """Measures, prints a table, keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=30_000)
    parser.add_argument("--peer-cells", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    result = measure(arguments.cells, arguments.genes, arguments.peer_cells, arguments.rounds)
    save("intake", result)
    width = result["expressed_genes_per_cell"]
    rows = [
        [what, f"{speed:,.0f}", f"{speed * width:,.0f}", f"{result['ratio_to_peer'][what]:.1f}"]
        for what, speed in result["cells_per_second"].items()
    ]
    print(
        f"{arguments.cells:,} cells x {arguments.genes:,} genes, {width:,.0f} expressed genes per cell, one thread\n"
    )
    print(as_table(["", "cells/s", "genes/s", "ratio"], rows))


if __name__ == "__main__":
    main()
