"""Where everything lies in a corpus folder, and what the columns of its shards are.

A corpus is a folder of ragged Parquet shards, one folder for each split:

    manifest.json                    what went in and out; written last, so a corpus without it is unfinished
    facts.parquet, panels.parquet    distinct facts and gene panels, in the order of their ids
    dropped.parquet                  cells that were left out, each with the reason
    processor/                       the feature extractor, with the gene vocabulary that the ids belong to
    train/shard-00000.parquet ...    also validation/, test/; a split without cells has no folder

Imports pyarrow only.
"""

from pathlib import Path

import pyarrow as pa

MANIFEST, LOCK, WORK = "manifest.json", ".lock", ".work"
FACTS, PANELS, DROPPED, PROCESSOR = "facts.parquet", "panels.parquet", "dropped.parquet", "processor"
SPLITS = ("train", "validation", "test")
FORMAT = 1
ROWS_PER_GROUP = 1024  # the piece of a shard that is read at once
# Destinations of cells that go to no shard.
NO_COUNTS, REPEATED = -1, -2
DROP_REASONS = {NO_COUNTS: "no counts in matched genes", REPEATED: "the same cell is in an earlier source"}
# Columns of `obs` that shards keep, where a source has them; named as CELLxGENE names them.
OBS_COLUMNS = (
    "cell_type",
    "cell_type_ontology_term_id",
    "tissue",
    "tissue_ontology_term_id",
    "disease",
    "disease_ontology_term_id",
    "assay",
    "assay_ontology_term_id",
    "sex",
    "sex_ontology_term_id",
    "development_stage",
    "development_stage_ontology_term_id",
    "self_reported_ethnicity",
    "self_reported_ethnicity_ontology_term_id",
    "suspension_type",
    "condition",
    "organism",
    "donor_id",
    "dataset_id",
    "study",
)


def shard_name(split: str, shard: int) -> str:
    """Path of a shard below the corpus."""
    return f"{split}/shard-{shard:05d}.parquet"


def shard_record_path(folder: Path, split: str, shard: int) -> Path:
    """What is known of a finished shard, until the manifest is written."""
    return folder / WORK / f"{split}-{shard:05d}.json"


def plan_path(folder: Path) -> Path:
    """Settings and sources of an unfinished build."""
    return folder / WORK / "plan.json"


def survey_path(folder: Path, source: int) -> Path:
    """What a survey has found in a source."""
    return folder / WORK / f"survey-{source:05d}.json"


def matches_path(folder: Path, source: int) -> Path:
    """Which genes of a source are in the vocabulary."""
    return folder / WORK / f"genes-{source:05d}.json"


def cells_path(folder: Path, source: int) -> Path:
    """The cells of a source that its filter lets through; a row group for each chunk."""
    return folder / WORK / f"cells-{source:05d}.parquet"


def descriptions_path(folder: Path, source: int) -> Path:
    """The distinct rows of `obs` in a source, with their facts and how many cells have them."""
    return folder / WORK / f"descriptions-{source:05d}.parquet"


def all_descriptions_path(folder: Path) -> Path:
    """The descriptions of all sources, one after another, with facts ids and splits."""
    return folder / WORK / "descriptions.parquet"


def repeated_path(folder: Path, source: int) -> Path:
    """Positions of the cells of a source that an earlier source has."""
    return folder / WORK / f"repeated-{source:05d}.npy"


def by_rows_path(folder: Path, source: int) -> Path:
    """A folder with the counts of a source that stores them by columns, chunk by chunk."""
    return folder / WORK / f"rows-{source:05d}"


def chunk_path(folder: Path, source: int, chunk: int) -> Path:
    """The cells of a chunk as they go to the shards."""
    return folder / WORK / f"chunk-{source:05d}-{chunk:06d}.arrow"


def gene_id_type(vocab_size: int) -> pa.DataType:
    """Gene ids take 16 bits where they fit."""
    return pa.uint16() if vocab_size <= 2**16 else pa.uint32()


def list_of(element: pa.DataType) -> pa.DataType:
    """A column of lists without nulls in them."""
    return pa.list_(pa.field("element", element, nullable=False))


def shard_schema(gene_id: pa.DataType) -> pa.Schema:
    """
    The columns of a shard. Genes and counts are lists: nothing is padded.

    Words are plain strings, for `datasets` reads no Arrow dictionaries; in the file they are dictionary-encoded, and
    `read_dictionary` of pyarrow reads them so.
    """
    return pa.schema(
        [
            ("cell_id", pa.string()),
            ("gene_ids", list_of(gene_id)),
            ("counts", list_of(pa.uint32())),
            ("num_genes", pa.uint32()),
            ("total_counts", pa.uint64()),
            ("panel_id", pa.uint32()),
            ("facts_id", pa.uint32()),
            *((name, pa.string()) for name in OBS_COLUMNS),
        ]
    )
