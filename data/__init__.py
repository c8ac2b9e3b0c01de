"""Cells, ontology terms and texts, and what turns them into training batches. Needs the extra `scmmgpt[data]`."""

from .batching import cut_batches
from .blocks import CellBlock
from .captions import CaptionWriter, named_genes
from .collator import ScMMGPTDataCollator
from .dataset import CellBatch, CellDataset
from .facts import CellFacts, read_facts
from .h5ad import demo_cells, name_genes, read_cells, recover_counts, take_counts
from .ontology import Ontology
from .splits import SplitManifest, assert_no_leakage, split_cells
from .templates import prompts
from .tokenizer import train_tokenizer

__all__ = [
    "CaptionWriter",
    "CellBatch",
    "CellBlock",
    "CellDataset",
    "CellFacts",
    "Ontology",
    "ScMMGPTDataCollator",
    "SplitManifest",
    "assert_no_leakage",
    "cut_batches",
    "demo_cells",
    "name_genes",
    "named_genes",
    "prompts",
    "read_cells",
    "read_facts",
    "recover_counts",
    "split_cells",
    "take_counts",
    "train_tokenizer",
]
