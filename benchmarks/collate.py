"""Cells in memory to model inputs: cells and gene tokens per second of one worker, for the losses of each stage.

    OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false python benchmarks/collate.py

Encoding and collation of cells with about 1,000 expressed genes, one thread; nothing is read from disk. Texts repeat
as in a corpus: there are far fewer kinds of cells than cells.
"""

import argparse
from itertools import product

import numpy as np
from common import as_table, describe_machine, make_cells, processor_seconds, save
from tqdm import tqdm

from scmmgpt import ScMMGPTFeatureExtractor, ScMMGPTProcessor
from scmmgpt.data import CaptionWriter, CellFacts, Ontology, train_tokenizer
from scmmgpt.data.collator import CELL_LOSSES, ScMMGPTDataCollator
from scmmgpt.data.dataset import CellDataset
from scmmgpt.data.profile import mean_profile

TYPES = {"B cell": "CL:0000236", "NK cell": "CL:0000623", "monocyte": "CL:0000576", "T cell": "CL:0000084"}
# What is measured: losses and options of the collator.
RUNS = {
    "cell losses, padded": (CELL_LOSSES, {}),
    "cell losses, packed": (CELL_LOSSES, {"layout": "packed"}),
    "cell losses, whole panels": (CELL_LOSSES, {"panel_dropout": 0.0}),
    "contrastive and matching, half of the cells mixed": (
        ("cell_reconstruction", "contrastive", "matching"),
        {"mixing": 0.5},
    ),
    "language and flow": (("language", "flow"), {"panel_dropout": 0.0}),
}


def make_dataset(num_cells: int, num_genes: int) -> tuple[CellDataset, ScMMGPTProcessor, CaptionWriter, np.ndarray]:
    """Cells of 320 kinds, and what a collator for them needs."""
    names = [f"GENE{i}" for i in range(num_genes)]
    extractor = ScMMGPTFeatureExtractor.from_genes(names)
    cells = extractor.align(make_cells(num_cells, num_genes, median_depth=1300), gene_names=names)
    writer = CaptionWriter(Ontology())
    kinds = [
        CellFacts(*label, tissue=tissue, disease=disease, sex=sex, assay="10x 3' v3", donor=f"D{donor}")
        for label, tissue, disease, sex, donor in product(
            TYPES.items(), ("blood", "lung"), ("normal", "asthma"), ("female", "male"), range(10)
        )
    ]
    rng = np.random.default_rng(0)
    facts = [kinds[i] for i in rng.integers(len(kinds), size=num_cells)]
    texts = [writer.describe(fact, rng, names[:5]) for fact in kinds for _ in range(3)]
    processor = ScMMGPTProcessor(extractor, train_tokenizer(texts, 2000), num_cell_tokens=32)
    return CellDataset([cells], [facts]), processor, writer, mean_profile([cells], len(extractor.vocab))


def measure(num_cells: int, num_genes: int, batch_size: int, rounds: int) -> dict:
    """Cells per second of each kind of batch, the quickest of some epochs."""
    dataset, processor, writer, profile = make_dataset(num_cells, num_genes)
    speed = {}
    for what, (losses, options) in tqdm(RUNS.items()):
        collator = ScMMGPTDataCollator(processor, writer, profile, losses, **options)

        def run_epoch(collator: ScMMGPTDataCollator = collator) -> None:
            for start in range(0, num_cells, batch_size):
                collator(dataset.__getitems__(range(start, min(start + batch_size, num_cells))))

        seconds = []
        for epoch in range(rounds):
            dataset.set_epoch(epoch)
            seconds.append(processor_seconds(run_epoch))
        speed[what] = num_cells / min(seconds)
    return {
        "cells": num_cells,
        "genes": num_genes,
        "expressed_genes_per_cell": float(dataset.cells.lengths.mean()),
        "batch_size": batch_size,
        "machine": describe_machine(),
        "cells_per_second": speed,
    }


def main() -> None:
    """Measures, prints a table, keeps the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--genes", type=int, default=30_000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    result = measure(arguments.cells, arguments.genes, arguments.batch_size, arguments.rounds)
    save("collate", result)
    width = result["expressed_genes_per_cell"]
    rows = [
        [what, f"{speed:,.0f}", f"{speed * width:,.0f}", f"{speed / arguments.batch_size:,.0f}"]
        for what, speed in result["cells_per_second"].items()
    ]
    print(
        f"Batches of {arguments.batch_size} cells, {width:,.0f} of {arguments.genes:,} genes expressed, one thread\n"
    )
    print(as_table(["losses", "cells/s", "genes/s", "batches/s"], rows))


if __name__ == "__main__":
    main()
