"""The cells that a run learns from: in memory for batches of so many cells, or streamed for so many tokens.

Must not import the model.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm

from ..data import (
    AnnDataSource,
    CellBlock,
    CellDataset,
    CellFacts,
    CellSource,
    CellStream,
    H5adSource,
    MixedSource,
    Ontology,
    ShardSource,
    demo_cells,
    name_genes,
    read_cells,
    read_facts,
    sampling_weights,
    take_counts,
)
from ..data.corpus.layout import MANIFEST
from ..data.profile import mean_profile, mean_profile_of_blocks
from ..data.shards import is_corpus
from ..processing_scmmgpt import AlignedCounts, ScMMGPTFeatureExtractor
from .recipe import DataRecipe
from .record import sha256

if TYPE_CHECKING:
    from anndata import AnnData

Collator = Callable[[Any], dict[str, Any]]
# Enough cells of a stream to know a typical transcriptome, read before training.
_PROFILE_CELLS = 100_000


@dataclass(frozen=True, eq=False)
class TrainingCells:
    """
    What a run learns from, and what has to be known of it before training.

    Args:
        extractor (`ScMMGPTFeatureExtractor`): the gene vocabulary.
        facts (`list[CellFacts]`): the distinct facts.
        num_cells (`int`): how many cells there are.
        profile (`np.ndarray` of shape `(V,)`): typical transcriptome; see [`mean_profile`].
        typical_value (`float`): mean encoded expression of a gene token, over some cells of each source.
        hashes (`dict[str, str]`): change when the cells do.
        training_set (`Callable[[Collator], Dataset]`): what a stage is trained on: cells for the collator, or a
            [`CellStream`] of its batches without an end.
        sample (`Callable[[Collator, int], Iterator[dict]]`): batches of about so many cells that stand for all.
    """

    extractor: ScMMGPTFeatureExtractor
    facts: list[CellFacts]
    num_cells: int
    profile: np.ndarray
    typical_value: float
    hashes: dict[str, str]
    training_set: Callable[[Collator], Dataset]
    sample: Callable[[Collator, int], Iterable[dict[str, Any]]]


def open_cells(
    recipe: DataRecipe, ontology: Ontology, seed: int, sources: "Sequence[AnnData] | None" = None
) -> TrainingCells:
    """
    Opens what `recipe.sources` names.

    Args:
        recipe (`DataRecipe`): the cells.
        ontology (`Ontology`): where labels are looked up.
        seed (`int`): of everything that is drawn for the cells.
        sources (`Sequence[AnnData]`, *optional*): cells with raw counts in `X`, to take instead.

    Raises:
        ValueError: when the cells are unusable.
    """
    if sources is None and any(map(is_corpus, recipe.sources)):
        return _streamed(recipe, *_open_corpora(recipe, ontology), seed)
    if sources is None:
        sources = [_read_source(source, recipe.layer) for source in recipe.sources]
    facts = [read_facts(source.obs, ontology, recipe.label_key) for source in sources]
    extractor = _vocabulary(recipe, sources)
    cells = [extractor.align(source) for source in sources]
    hashes = {
        "counts": sha256(*(part.tobytes() for x in cells for part in (x.indptr, x.gene_ids, x.counts, x.panel))),
        "facts": sha256(*(repr(fact).encode() for known in facts for fact in known)),
    }
    if recipe.max_tokens_per_batch is None:
        return _in_memory(extractor, cells, facts, hashes, seed)
    in_memory = [AnnDataSource(source, extractor, ontology, recipe.label_key) for source in sources]
    names = recipe.sources if len(recipe.sources) == len(sources) else [str(i) for i in range(len(sources))]
    return _streamed(recipe, extractor, MixedSource(in_memory, names), hashes, seed)


def _read_source(source: str, layer: str | None) -> "AnnData":
    """Cells with counts in `X` and symbols in `var_names`."""
    return demo_cells() if source == "demo" else name_genes(take_counts(read_cells(source), layer))


def _vocabulary(recipe: DataRecipe, sources: "Sequence[AnnData]") -> ScMMGPTFeatureExtractor:
    """The genes of all sources."""
    ensembl_ids: dict[str, str] = {}
    for source in sources:
        known = source.var["ensembl_id"] if "ensembl_id" in source.var else [""] * source.n_vars
        for symbol, ensembl_id in zip(source.var_names, known, strict=True):
            ensembl_ids[symbol] = ensembl_ids.get(symbol) or str(ensembl_id)
    return ScMMGPTFeatureExtractor.from_genes(
        list(ensembl_ids),
        ensembl_ids=list(ensembl_ids.values()),
        max_genes=recipe.max_genes,
        value_encoding=recipe.value_encoding,
    )


def _open_corpora(
    recipe: DataRecipe, ontology: Ontology
) -> tuple[ScMMGPTFeatureExtractor, CellSource, dict[str, str]]:
    """Corpora with their gene vocabulary, and files beside them that take it."""
    corpora = {path: ShardSource(path) for path in recipe.sources if is_corpus(path)}
    options = {"max_genes": recipe.max_genes, "value_encoding": recipe.value_encoding}
    first = next(iter(corpora.values()))
    extractor = ScMMGPTFeatureExtractor.from_dict(first.extractor.to_dict() | options)
    opened, hashes = [], {}
    for path in recipe.sources:
        if path in corpora:
            opened.append(corpora[path])
            hashes[path] = sha256((Path(path) / MANIFEST).read_bytes())
        elif path == "demo":
            opened.append(AnnDataSource(demo_cells(), extractor, ontology, recipe.label_key))
        else:
            opened.append(H5adSource(path, extractor, ontology, recipe.label_key, recipe.layer))
            with open(path, "rb") as file:
                hashes[path] = hashlib.file_digest(file, "sha256").hexdigest()
    return extractor, MixedSource(opened, recipe.sources), hashes


def _in_memory(
    extractor: ScMMGPTFeatureExtractor,
    cells: Sequence[AlignedCounts],
    facts: Sequence[Sequence[CellFacts]],
    hashes: dict[str, str],
    seed: int,
) -> TrainingCells:
    dataset = CellDataset(cells, facts, seed)

    def sample(collator: Collator, num_cells: int) -> DataLoader:
        subset = Subset(dataset, range(0, len(dataset), max(1, len(dataset) // num_cells)))
        return DataLoader(subset, batch_size=64, collate_fn=collator)

    few = [source.select(slice(0, None, max(1, len(source) // 100))) for source in cells]
    return TrainingCells(
        extractor,
        dataset.facts,
        len(dataset),
        mean_profile(cells, len(extractor.vocab)),
        _mean_value(extractor, few),
        hashes,
        lambda collator: dataset,
        sample,
    )


def _streamed(
    recipe: DataRecipe, extractor: ScMMGPTFeatureExtractor, source: CellSource, hashes: dict[str, str], seed: int
) -> TrainingCells:
    weights = sampling_weights(source, recipe.sampling) if recipe.sampling else None

    def stream(collator: Collator, **options: Any) -> CellStream:
        return CellStream(
            source, recipe.max_tokens_per_batch, recipe.max_genes, collator, seed=seed, weights=weights, **options
        )

    def sample(collator: Collator, num_cells: int) -> Iterator[dict[str, Any]]:
        found = 0
        for batch in stream(collator):
            yield batch
            found += len(batch["cell_panel_index"])
            if found >= num_cells:
                return

    few: list[CellBlock] = []
    profile = mean_profile_of_blocks(_evenly(source, few), source.panels, len(extractor.vocab))
    return TrainingCells(
        extractor,
        list(source.facts),
        int(source.unit_sizes.sum()),
        profile,
        _mean_value(extractor, few),
        hashes,
        lambda collator: stream(collator, endless=True),
        sample,
    )


def _evenly(source: CellSource, few: list[CellBlock]) -> Iterator[CellBlock]:
    """Evenly spaced units of a source, about `_PROFILE_CELLS` cells; every hundredth cell is kept in `few`."""
    num_units = len(source.unit_sizes)
    step = max(1, int(source.unit_sizes.sum()) // _PROFILE_CELLS)
    for unit in tqdm(range(0, num_units, step), desc="typical transcriptome", leave=False, delay=2):
        block = source.read(unit)
        few.append(block.select(np.arange(0, len(block), 100)))
        yield block


def _mean_value(extractor: ScMMGPTFeatureExtractor, cells: Sequence[AlignedCounts | CellBlock]) -> float:
    """Mean encoded expression of a gene token."""
    values = np.concatenate([extractor.encode(some.indptr, some.gene_ids, some.counts)[2] for some in cells])
    return float(values[values != extractor.pad_value].mean())


__all__ = ["TrainingCells", "open_cells"]
