"""From what the surveys found to what is written where: facts, panels, splits, shards.

Nothing here is random or depends on the order of tasks: the same surveys make the same plan.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ...feature_extraction_scmmgpt import ScMMGPTFeatureExtractor
from .files import read_json, whole_file
from .layout import (
    FACTS,
    PANELS,
    SPLITS,
    all_descriptions_path,
    cells_path,
    descriptions_path,
    gene_id_type,
    list_of,
    matches_path,
    repeated_path,
    survey_path,
)
from .settings import BuildSettings
from .sources import SourceSpec
from .splits import split_descriptions
from .survey import FACT_FIELDS, FACT_PREFIX


@dataclass(frozen=True)
class PlannedSource:
    """
    A source that is taken.

    Args:
        number (`int`): its place among all sources.
        spec ([`SourceSpec`]): what names it.
        survey, match (`dict`): what was found.
        panel_id (`int`): row of the corpus's panels.
        first_description (`int`): row of its first description among all.
        cells_per_chunk (`int`): cells of each piece but the last.
    """

    number: int
    spec: SourceSpec
    survey: dict[str, Any]
    match: dict[str, Any]
    panel_id: int
    first_description: int
    cells_per_chunk: int

    @property
    def chunks(self) -> list[int]:
        """Its pieces, each the work of one task."""
        return list(range(-(-self.survey["kept"] // self.cells_per_chunk)))

    def cells_in(self, chunk: int) -> int:
        """Cells of a piece."""
        return min(self.cells_per_chunk, self.survey["kept"] - chunk * self.cells_per_chunk)


@dataclass(frozen=True)
class Plan:
    """
    What is written where.

    Args:
        sources (`list[PlannedSource]`): those that are taken.
        shards (`list[tuple[str, int]]`): split and number of each shard; the place in the list is the shard's
            destination.
        splits (`dict`): record of the splits, for the manifest.
        num_facts, num_panels (`int`): rows of `facts.parquet` and `panels.parquet`.
        vocab_size (`int`): tokens of the gene vocabulary.
    """

    sources: list[PlannedSource]
    shards: list[tuple[str, int]]
    splits: dict[str, Any]
    num_facts: int
    num_panels: int
    vocab_size: int


def make_plan(
    folder: Path,
    specs: list[SourceSpec],
    taken: list[int],
    extractor: ScMMGPTFeatureExtractor,
    settings: BuildSettings,
) -> Plan:
    """
    Reads the surveys, writes `facts.parquet`, `panels.parquet` and the descriptions of all sources.

    Args:
        folder (`Path`): the corpus.
        specs (`list[SourceSpec]`): all sources.
        taken (`list[int]`): numbers of those that are not refused.
        extractor ([`ScMMGPTFeatureExtractor`]): the gene vocabulary.
        settings ([`BuildSettings`]): what the user wants.
    """
    matches = {number: read_json(matches_path(folder, number)) for number in taken}
    panels: dict[tuple[int, ...], list[str]] = {}
    for number in taken:
        panels.setdefault(tuple(matches[number]["panel"]), []).append(specs[number].name)
    panel_ids = {panel: index for index, panel in enumerate(panels)}
    _write_panels(folder / PANELS, panels, gene_id_type(len(extractor.vocab)))

    sources, tables, first = [], [], 0
    for number in taken:
        table = pq.read_table(descriptions_path(folder, number)).to_pandas()
        panel_id = panel_ids[tuple(matches[number]["panel"])]
        survey = read_json(survey_path(folder, number))
        sources.append(
            PlannedSource(number, specs[number], survey, matches[number], panel_id, first, settings.cells_per_chunk)
        )
        tables.append(table.assign(source=specs[number].name, panel_id=panel_id))
        first += len(table)
    descriptions = pd.concat(tables, ignore_index=True)
    facts = descriptions[[f"{FACT_PREFIX}{name}" for name in FACT_FIELDS]].astype(object)
    facts = facts.where(facts.notna(), None)
    rows = pd.Series(list(facts.itertuples(index=False, name=None)))
    descriptions["facts_id"], distinct = pd.factorize(rows)
    columns = [pa.array(column, pa.string()) for column in zip(*distinct, strict=True)]
    with whole_file(folder / FACTS) as part:
        pq.write_table(pa.table(columns, names=list(FACT_FIELDS)), part)

    split, record = split_descriptions(descriptions, settings)
    cells = descriptions["cells"].groupby(split).sum()
    number_of = {name: -(-int(cells.get(name, 0)) // settings.cells_per_shard) for name in SPLITS}
    shards = [(name, shard) for name in SPLITS for shard in range(number_of[name])]
    descriptions["first_shard"] = [shards.index((name, 0)) for name in split]
    descriptions["num_shards"] = [number_of[name] for name in split]
    kept = [name for name in descriptions.columns if not name.startswith(FACT_PREFIX)]
    with whole_file(all_descriptions_path(folder)) as part:
        pq.write_table(pa.Table.from_pandas(descriptions[kept], preserve_index=False), part)
    _write_repeated(folder, sources)
    return Plan(sources, shards, record, len(distinct), len(panels), len(extractor.vocab))


def _write_panels(path: Path, panels: dict[tuple[int, ...], list[str]], gene_id: pa.DataType) -> None:
    columns = {
        "panel_id": pa.array(range(len(panels)), pa.uint32()),
        "gene_ids": pa.array(list(panels), list_of(gene_id)),
        "sources": pa.array(list(panels.values()), pa.list_(pa.string())),
    }
    with whole_file(path) as part:
        pq.write_table(pa.table(columns), part)


def _write_repeated(folder: Path, sources: list[PlannedSource]) -> None:
    """Finds the cells that an earlier source has, too. Only sources that share a dataset are compared."""
    for place, source in enumerate(sources):
        datasets = set(source.survey["datasets"])
        earlier = [other for other in sources[:place] if datasets & set(other.survey["datasets"])]
        if not earlier:
            continue
        keys = [pq.read_table(cells_path(folder, one.number), columns=["key"])["key"] for one in [*earlier, source]]
        *seen, own = (column.to_numpy() for column in keys)
        with whole_file(repeated_path(folder, source.number)) as part, open(part, "wb") as file:
            np.save(file, np.flatnonzero(np.isin(own, np.concatenate(seen))))
