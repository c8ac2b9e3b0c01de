"""Cells, ontology terms and texts, and what turns them into training batches. Needs the extra `scmmgpt[data]`."""

from .captions import CaptionWriter, named_genes, prompts
from .dataset import CellTextCorpus, CellTextDataset, ScMMGPTDataCollator, read_facts
from .facts import CellFacts
from .h5ad import demo_cells, name_genes, read_cells, recover_counts, take_counts
from .ontology import Ontology
from .splits import SplitManifest, assert_no_leakage, split_cells
from .tokenizer import train_tokenizer

__all__ = [
    "CaptionWriter",
    "CellFacts",
    "CellTextCorpus",
    "CellTextDataset",
    "Ontology",
    "ScMMGPTDataCollator",
    "SplitManifest",
    "assert_no_leakage",
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
