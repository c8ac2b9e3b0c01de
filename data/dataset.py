"""From aligned cells and their facts to training batches.

A batch holds exactly what the wanted losses need, under the names that the model's `forward` gives them. Randomness
comes from (seed, epoch, cell), never from batch order, so a resumed run draws what an undisturbed one would. Must not
import the model.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import ConcatDataset, Dataset

from ..configuration_scmmgpt import IGNORE_VALUE
from ..feature_extraction_scmmgpt import pad_rows
from ..processing_scmmgpt import AlignedCounts, ScMMGPTProcessor
from .captions import CaptionWriter, prompts
from .facts import FACT_COLUMNS, CellFacts
from .ontology import Ontology

if TYPE_CHECKING:
    from pandas import DataFrame

CELL_LOSSES = ("cell_reconstruction", "masked_expression")
PAIR_LOSSES = ("contrastive", "matching")
TEXT_LOSSES = ("language", "flow")
LOSSES = CELL_LOSSES + PAIR_LOSSES + TEXT_LOSSES


@dataclass(frozen=True)
class CellExample:
    """
    One cell of a [`CellTextDataset`], with the seed of everything that is drawn for it.

    Args:
        gene_ids, counts (`np.ndarray` of shape `(N,)`): its expressed genes.
        panel (`np.ndarray` of shape `(M,)`): the genes measured.
        facts (`CellFacts`): what is known of it.
        twin (`tuple[np.ndarray, np.ndarray]`): gene ids and counts of another cell of which the same is known, or of
            the cell itself where there is none.
        seed (`tuple[int, int, int]`): dataset seed, epoch and index.
    """

    gene_ids: np.ndarray
    counts: np.ndarray
    panel: np.ndarray
    facts: CellFacts
    twin: tuple[np.ndarray, np.ndarray]
    seed: tuple[int, int, int]


def read_facts(obs: "DataFrame", ontology: Ontology, label_key: str = "cell_type") -> list[CellFacts]:
    """
    The facts of every cell of `adata.obs`; each distinct row is read once.

    Args:
        obs (`DataFrame`): columns named as CELLxGENE names them; see [`CellFacts.from_obs`].
        ontology (`Ontology`): where labels are looked up.
        label_key (`str`): column of the author's labels.
    """
    wanted = {*FACT_COLUMNS, "cell_type_ontology_term_id", label_key}
    rows = obs[[name for name in obs.columns if name in wanted]].astype(object).to_dict("records")
    known: dict[tuple, CellFacts] = {}
    facts = []
    for row in rows:
        key = tuple(map(str, row.values()))
        if key not in known:
            known[key] = CellFacts.from_obs(row, ontology, label_key)
        facts.append(known[key])
    return facts


class CellTextDataset(Dataset):
    """
    Cells of one gene panel with what is known of each.

    Args:
        cells (`AlignedCounts`): the counts.
        facts (`Sequence[CellFacts]`): as many as cells, in their order.
        seed (`int`): with the epoch and the cell's index, the seed of its masks, panels and phrasings.
    """

    def __init__(self, cells: AlignedCounts, facts: Sequence[CellFacts], seed: int = 0) -> None:
        if len(cells) != len(facts):
            raise ValueError(
                f"`facts` holds {len(facts)} entries for {len(cells)} cells. Make one CellFacts per row of `obs`."
            )
        self.cells, self.facts, self.seed, self.epoch = cells, list(facts), seed, 0
        self.twins: dict[CellFacts, list[int]] = {}
        for index, fact in enumerate(self.facts):
            self.twins.setdefault(fact, []).append(index)

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of an epoch, so that each one draws afresh."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: int) -> CellExample:
        gene_ids, counts = self.cells.row(index)
        seed = (self.seed, self.epoch, index)
        twins = self.twins[self.facts[index]]
        twin = self.cells.row(twins[np.random.default_rng((*seed, 1)).integers(len(twins))])
        return CellExample(gene_ids, counts, self.cells.panel, self.facts[index], twin, seed)


class CellTextCorpus(ConcatDataset):
    """Several [`CellTextDataset`]s, each with its own panel, as one."""

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer at the start of an epoch."""
        for dataset in self.datasets:
            dataset.set_epoch(epoch)


def mean_profile(sources: Sequence[AlignedCounts], vocab_size: int) -> np.ndarray:
    """
    Share of each gene in a typical transcriptome: the mean over cells of their proportions, taken for each gene over
    the cells in which it was measured.

    Genes that were measured and never seen get a thousandth of the median expressed gene's share, since a softmax
    cannot say never; tokens outside every panel get 0.

    Args:
        sources (`Sequence[AlignedCounts]`): training cells, one entry per panel.
        vocab_size (`int`): number of gene tokens `V`.

    Returns:
        `np.ndarray` of shape `(V,)`, float64, summing to 1.
    """
    total_share, num_measured = np.zeros(vocab_size), np.zeros(vocab_size)
    for cells in sources:
        rows = np.repeat(np.arange(len(cells)), np.diff(cells.indptr))
        totals = np.bincount(rows, cells.counts, minlength=len(cells))
        total_share += np.bincount(cells.gene_ids, cells.counts / totals[rows], minlength=vocab_size)
        num_measured[cells.panel] += len(cells)
    measured = num_measured > 0
    profile = np.divide(total_share, num_measured, where=measured, out=np.zeros(vocab_size))
    floor = 1e-3 * np.median(profile[profile > 0])
    profile[measured] = np.maximum(profile[measured], floor)
    return profile / profile.sum()


def characteristic_genes(gene_ids: np.ndarray, counts: np.ndarray, profile: np.ndarray, n: int) -> np.ndarray:
    """
    The genes that set a cell apart: the largest terms of its log-likelihood ratio against the typical transcriptome,
    x_g log(p_g / profile_g), among genes with at least two counts.

    Args:
        gene_ids, counts (`np.ndarray` of shape `(N,)`): the expressed genes of one cell.
        profile (`np.ndarray` of shape `(V,)`): see [`mean_profile`].
        n (`int`): how many at most.

    Returns:
        `np.ndarray` of shape `(<= n,)`: gene ids, most characteristic first; ties by gene id.
    """
    score = counts * np.log(counts / counts.sum() / np.maximum(profile[gene_ids], 1e-12))
    candidates = np.flatnonzero((counts >= 2) & (score > 0))
    order = candidates[np.lexsort((gene_ids[candidates], -score[candidates]))]
    return gene_ids[order[:n]]


@dataclass
class ScMMGPTDataCollator:
    """
    Turns [`CellExample`]s into the tensors that the wanted losses need.

    Args:
        processor (`ScMMGPTProcessor`): tokenises cells and text.
        writer (`CaptionWriter`): phrases the facts.
        profile (`np.ndarray` of shape `(V,)`): typical transcriptome, to choose the genes a description names.
        losses (`Collection[str]`): of `LOSSES`.
        mixing (`float`): share of cells that are mixed with another of which the same is known. Each gives a random
            part of its molecules, so the mixture is as deep as one cell and as noisy, and there are as many as pairs
            of cells. Only where the type is to be learnt: mixtures vary less than cells do.
        panel_dropout (`float`): share of cells that are seen as if fewer genes had been measured.
        min_panel_share (`float`): such a panel keeps at least this share of the genes.
        max_mask_share (`float`): a cell's masked share is drawn from 0 to this.
        annotate_share (`float`): share of language examples that ask for the type alone.
        num_named_genes (`int`): genes at most that a description may name.
    """

    processor: ScMMGPTProcessor
    writer: CaptionWriter
    profile: np.ndarray
    losses: Collection[str]
    mixing: float = 0.0
    panel_dropout: float = 0.5
    min_panel_share: float = 0.3
    max_mask_share: float = 0.4
    annotate_share: float = 0.3
    num_named_genes: int = 5

    def __post_init__(self) -> None:
        unknown = sorted(set(self.losses) - set(LOSSES))
        if unknown:
            raise ValueError(f"`losses` names {unknown}; the model has {list(LOSSES)}.")
        for name in ("mixing", "panel_dropout", "min_panel_share", "max_mask_share", "annotate_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}`={getattr(self, name)}: expected a share in [0, 1].")

    def __call__(self, examples: Sequence[CellExample]) -> dict[str, torch.Tensor]:
        """`C` examples -> the batch fields that [`ScMMGPTForConditionalGeneration.forward`] documents."""
        rngs = [np.random.default_rng(example.seed) for example in examples]
        examples = [self._augment(example, rng) for example, rng in zip(examples, rngs, strict=True)]
        batch = self._cells(examples, rngs)
        facts = list(zip((example.facts for example in examples), rngs, strict=True))
        if set(self.losses) & set(PAIR_LOSSES):
            batch |= self._descriptions(facts)
        if "language" in self.losses:
            batch |= self._conversations(examples, rngs)
        if "flow" in self.losses:
            batch |= self._texts("condition", [self.writer.condition(fact, rng) for fact, rng in facts])
        return batch

    def _augment(self, example: CellExample, rng: np.random.Generator) -> CellExample:
        if rng.random() < self.mixing:
            example = self._mix(example, rng)
        if rng.random() < self.panel_dropout:
            example = self._drop_genes(example, rng)
        return example

    def _mix(self, example: CellExample, rng: np.random.Generator) -> CellExample:
        """A part of the cell's molecules, and the rest of its twin's."""
        part, (twin_ids, twin_counts) = rng.random(), example.twin
        mixture = np.zeros(example.panel[-1] + 1, dtype=np.int64)
        mixture[example.gene_ids] += rng.binomial(example.counts.astype(np.int64), part)
        mixture[twin_ids] += rng.binomial(twin_counts.astype(np.int64), 1.0 - part)
        gene_ids = np.flatnonzero(mixture)
        if not gene_ids.size:  # an empty cell teaches nothing
            return example
        return replace(example, gene_ids=gene_ids, counts=mixture[gene_ids].astype(np.float32))

    def _drop_genes(self, example: CellExample, rng: np.random.Generator) -> CellExample:
        """The cell as another assay might have seen it: some genes of its panel not measured."""
        size = max(1, round(len(example.panel) * rng.uniform(self.min_panel_share, 1.0)))
        panel = np.sort(rng.choice(example.panel, size, replace=False))
        kept = np.isin(example.gene_ids, panel)
        if not kept.any():  # an empty cell teaches nothing
            return example
        return replace(example, gene_ids=example.gene_ids[kept], counts=example.counts[kept], panel=panel)

    def _cells(self, examples: Sequence[CellExample], rngs: list[np.random.Generator]) -> dict[str, torch.Tensor]:
        extractor = self.processor.feature_extractor
        batch = extractor.pad([extractor.encode(example.gene_ids, example.counts) for example in examples])
        if "masked_expression" in self.losses:
            batch |= self._mask(batch, rngs)
        panels = {example.panel.tobytes(): example.panel for example in examples}
        index = {key: i for i, key in enumerate(panels)}
        batch["cell_panel_index"] = np.array([index[example.panel.tobytes()] for example in examples])
        batch["panel_gene_ids"] = pad_rows(list(panels.values()), extractor.pad_token_id)
        batch["target_gene_ids"] = pad_rows([example.gene_ids for example in examples], extractor.pad_token_id)
        batch["target_counts"] = pad_rows([example.counts for example in examples], 0.0)
        return {name: torch.as_tensor(value) for name, value in batch.items()}

    def _mask(self, batch: dict[str, np.ndarray], rngs: list[np.random.Generator]) -> dict[str, np.ndarray]:
        """Hides values at random; the hidden share differs from cell to cell, and may be none."""
        values = batch["cell_values"]
        shares = np.array([rng.uniform(0.0, self.max_mask_share) for rng in rngs])[:, None]
        # As many draws as the cell has tokens: what is drawn next must not depend on the padding.
        lengths = batch["cell_attention_mask"].sum(1)
        draws = pad_rows([rng.random(length) for rng, length in zip(rngs, lengths, strict=True)], 1.0)
        masked = draws < shares
        masked[:, 0] = False  # <cls>
        mask_value = self.processor.feature_extractor.mask_value
        return {
            "cell_values": np.where(masked, mask_value, values).astype(np.float32),
            "cell_value_labels": np.where(masked, values, IGNORE_VALUE).astype(np.float32),
        }

    def _texts(self, name: str, texts: list[str]) -> dict[str, torch.Tensor]:
        encoded = self.processor.tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
        return {f"{name}_input_ids": encoded["input_ids"], f"{name}_attention_mask": encoded["attention_mask"]}

    def _descriptions(self, facts: list[tuple[CellFacts, np.random.Generator]]) -> dict[str, torch.Tensor]:
        """One text per cell, and of which cells of the batch it is true: what it leaves out makes no difference."""
        # Which donor a cell is from is nothing that it shows.
        known = [(replace(fact, donor=None), rng) for fact, rng in facts]
        texts, told = zip(*(self.writer.condition_and_facts(fact, rng) for fact, rng in known), strict=True)
        is_true = self.writer.is_true(told, [fact for fact, _ in known])
        return self._texts("description", list(texts)) | {"description_is_true": torch.as_tensor(is_true)}

    def _conversations(
        self, examples: Sequence[CellExample], rngs: list[np.random.Generator]
    ) -> dict[str, torch.Tensor]:
        """Instruction with one cell, then the answer; only the answer is learnt."""
        tokenizer = self.processor.tokenizer
        sequences, labels = [], []
        for example, rng in zip(examples, rngs, strict=True):
            instruction, answer = self._instruction(example, rng)
            instruction = instruction.replace(
                self.processor.cell_token, self.processor.cell_token * self.processor.num_cell_tokens
            )
            prompt_ids = tokenizer(instruction)["input_ids"]
            answer_ids = tokenizer("\n" + answer, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
            sequences.append(np.array(prompt_ids + answer_ids))
            labels.append(np.array([-100] * len(prompt_ids) + answer_ids))
        return {
            "input_ids": torch.as_tensor(pad_rows(sequences, tokenizer.pad_token_id)),
            "attention_mask": torch.as_tensor(pad_rows([np.ones_like(sequence) for sequence in sequences], 0)),
            "labels": torch.as_tensor(pad_rows(labels, -100)),
        }

    def _instruction(self, example: CellExample, rng: np.random.Generator) -> tuple[str, str]:
        if rng.random() < self.annotate_share:
            return prompts("annotate", rng), self.writer.name(example.facts)
        genes = characteristic_genes(example.gene_ids, example.counts, self.profile, self.num_named_genes)
        symbols = [self.processor.feature_extractor.vocab[gene] for gene in genes]
        return prompts("describe", rng), self.writer.describe(example.facts, rng, top_genes=symbols)
