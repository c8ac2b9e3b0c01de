"""Cells, ontology terms and texts, and what turns them into training batches. Needs the extra `scmmgpt[data]`."""

from .batching import cut_batches
from .blocks import CellBlock
from .captions import CaptionWriter, named_genes
from .collator import ScMMGPTDataCollator
from .dataset import CellBatch, CellDataset
from .facts import CellFacts, read_facts
from .genes import Gene, add_aliases, make_feature_extractor, read_gene_table, read_scgpt_vocab
from .h5ad import demo_cells, name_genes, read_cells, recover_counts, take_counts
from .ontology import Ontology
from .sampling import sampling_weights
from .shards import ShardSource
from .sources import AnnDataSource, CellSource, H5adSource, MixedSource
from .splits import SplitManifest, assert_no_leakage, split_cells
from .stream import CellStream, StreamLoader
from .templates import prompts
from .tokenizer import train_tokenizer

__all__ = [
    "AnnDataSource",
    "CaptionWriter",
    "CellBatch",
    "CellBlock",
    "CellDataset",
    "CellFacts",
    "CellSource",
    "CellStream",
    "Gene",
    "H5adSource",
    "MixedSource",
    "Ontology",
    "ScMMGPTDataCollator",
    "ShardSource",
    "SplitManifest",
    "StreamLoader",
    "add_aliases",
    "assert_no_leakage",
    "cut_batches",
    "demo_cells",
    "make_feature_extractor",
    "name_genes",
    "named_genes",
    "prompts",
    "read_cells",
    "read_facts",
    "read_gene_table",
    "read_scgpt_vocab",
    "recover_counts",
    "sampling_weights",
    "split_cells",
    "take_counts",
    "train_tokenizer",
]
