"""From batches of cells with their facts to the tensors that the losses need.

A batch holds exactly what the wanted losses need, under the names that the model's `forward` gives them. What is drawn
for a cell depends on its own seed, never on the batch. Must not import the model.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch

from ..configuration_scmmgpt import IGNORE_VALUE
from ..encoding_scmmgpt import pad_ragged, pad_rows
from ..processing_scmmgpt import ScMMGPTProcessor
from .augment import RandomPanels, drop_genes, mask_tokens, mix_with_twins
from .blocks import CellBlock
from .captions import CaptionWriter, check_tasks
from .dataset import CellBatch
from .evidence import CellGenes, GeneBackground
from .facts import CellFacts

CELL_LOSSES = ("cell_reconstruction", "masked_expression")
PAIR_LOSSES = ("contrastive", "matching")
TEXT_LOSSES = ("language", "flow")
LOSSES = CELL_LOSSES + PAIR_LOSSES + TEXT_LOSSES
# Distinct texts whose tokens are remembered.
_REMEMBERED_TEXTS = 100_000


@dataclass
class ScMMGPTDataCollator:
    """
    Turns a [`CellBatch`] into the tensors that the wanted losses need.

    Args:
        processor (`ScMMGPTProcessor`): tokenises cells and text.
        writer (`CaptionWriter`): phrases the facts.
        profile (`np.ndarray` of shape `(V,)`): typical transcriptome, to choose the genes a description names.
        losses (`Collection[str]`): of `LOSSES`.
        mixing (`float`): share of cells that are mixed with another of which the same is known; see
            [`mix_with_twins`]. Only where the type is to be learnt: mixtures vary less than cells do.
        panel_dropout (`float`): share of cells that are seen as if fewer genes had been measured.
        min_panel_share (`float`): such a panel keeps at least about this share of the genes.
        max_mask_share (`float`): a cell's masked share is drawn from 0 to this.
        tasks (`Mapping[str, float]`): weight of each kind of language example; see [`CaptionWriter.conversation`].
        num_named_genes (`int`): genes at most that a description may name.
        layout (`str`): "padded", cells `(C, G)` filled up to the longest; or "packed", all tokens one after another
            `(N,)`, with `cell_cu_seqlens` `(C + 1,)` int32 in place of `cell_attention_mask`.
    """

    processor: ScMMGPTProcessor
    writer: CaptionWriter
    profile: np.ndarray
    losses: Collection[str]
    mixing: float = 0.0
    panel_dropout: float = 0.5
    min_panel_share: float = 0.3
    max_mask_share: float = 0.4
    tasks: Mapping[str, float] = field(default_factory=lambda: {"annotate": 0.3, "describe": 0.7})
    num_named_genes: int = 5
    layout: Literal["padded", "packed"] = "padded"
    _tokens_of_text: dict[str, list[int]] = field(default_factory=dict, init=False, repr=False)
    _background: GeneBackground = field(init=False, repr=False)
    _last_panels: RandomPanels | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.losses) - set(LOSSES))
        if unknown:
            raise ValueError(f"`losses` names {unknown}; the model has {list(LOSSES)}.")
        if self.layout not in ("padded", "packed"):
            raise ValueError(f"`layout`={self.layout!r}: expected 'padded' or 'packed'.")
        for name in ("mixing", "panel_dropout", "min_panel_share", "max_mask_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"`{name}`={getattr(self, name)}: expected a share in [0, 1].")
        check_tasks(self.tasks)
        self._background = GeneBackground(self.processor.feature_extractor.vocab, self.profile, self.num_named_genes)

    def __call__(self, batch: CellBatch) -> dict[str, torch.Tensor]:
        """`C` cells -> the batch fields that [`ScMMGPTForConditionalGeneration.forward`] documents."""
        cells = batch.cells
        if self.mixing:
            cells = mix_with_twins(cells, batch.twins, batch.seeds, self.mixing)
        cells, panels = drop_genes(cells, self._random_panels(batch), batch.seeds, self.panel_dropout)
        tensors = self._cells(cells, panels, batch.seeds)
        if set(self.losses) <= set(CELL_LOSSES):
            return tensors
        facts = [batch.facts[i] for i in cells.facts_index]
        rngs = [np.random.default_rng(int(seed)) for seed in batch.seeds]
        if set(self.losses) & set(PAIR_LOSSES):
            tensors |= self._descriptions(facts, rngs)
        if "language" in self.losses:
            tensors |= self._conversations(cells, panels, batch.facts, rngs)
        if "flow" in self.losses:
            pairs = zip(facts, rngs, strict=True)
            tensors |= self._texts("condition", [self.writer.condition(fact, rng) for fact, rng in pairs])
        return tensors

    def _random_panels(self, batch: CellBatch) -> RandomPanels:
        last = self._last_panels
        if last is None or last.seed != batch.panel_seed or last.panels is not batch.panels:
            vocab_size = len(self.processor.feature_extractor.vocab)
            last = RandomPanels(batch.panels, vocab_size, self.min_panel_share, batch.panel_seed)
            self._last_panels = last
        return last

    def _cells(self, cells: CellBlock, panels: Sequence[np.ndarray], seeds: np.ndarray) -> dict[str, torch.Tensor]:
        extractor = self.processor.feature_extractor
        limits, token_ids, values = extractor.encode(cells.indptr, cells.gene_ids, cells.counts)
        labels = None
        if "masked_expression" in self.losses:
            masked = mask_tokens(limits, token_ids, seeds, self.max_mask_share)
            labels = np.where(masked, values, np.float32(IGNORE_VALUE))
            values = np.where(masked, np.float32(extractor.mask_value), values)
        if self.layout == "packed":
            batch = {"cell_gene_ids": token_ids, "cell_values": values, "cell_cu_seqlens": limits.astype(np.int32)}
        else:
            batch = extractor.pad(limits, token_ids, values)
        if labels is not None:
            packed = self.layout == "packed"
            batch["cell_value_labels"] = labels if packed else pad_ragged(labels, limits, IGNORE_VALUE)
        batch["cell_panel_index"] = cells.panel_index.astype(np.int64)
        batch["panel_gene_ids"] = pad_rows(panels, extractor.pad_token_id)
        batch["target_gene_ids"] = pad_ragged(cells.gene_ids, cells.indptr, extractor.pad_token_id, np.int64)
        batch["target_counts"] = pad_ragged(cells.counts, cells.indptr, 0.0, np.float32)
        return {name: torch.as_tensor(value) for name, value in batch.items()}

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of texts; each distinct text is tokenised once."""
        known = self._tokens_of_text
        new = [text for text in dict.fromkeys(texts) if text not in known]
        if len(known) + len(new) > _REMEMBERED_TEXTS:
            known.clear()
            new = list(dict.fromkeys(texts))
        if new:
            known.update(zip(new, self.processor.tokenizer(new)["input_ids"], strict=True))
        return [known[text] for text in texts]

    def _texts(self, name: str, texts: list[str]) -> dict[str, torch.Tensor]:
        rows = [np.array(ids) for ids in self._tokenise(texts)]
        return {
            f"{name}_input_ids": torch.as_tensor(pad_rows(rows, self.processor.tokenizer.pad_token_id)),
            f"{name}_attention_mask": torch.as_tensor(pad_rows([np.ones_like(row) for row in rows], 0)),
        }

    def _descriptions(self, facts: list[CellFacts], rngs: list[np.random.Generator]) -> dict[str, torch.Tensor]:
        """One text per cell, and of which cells of the batch it is true: what it leaves out makes no difference."""
        # Which donor a cell is from is nothing that it shows.
        known = [replace(fact, donor=None) for fact in facts]
        pairs = zip(known, rngs, strict=True)
        texts, told = zip(*(self.writer.condition_and_facts(fact, rng) for fact, rng in pairs), strict=True)
        is_true = self.writer.is_true(told, known)
        return self._texts("description", list(texts)) | {"description_is_true": torch.as_tensor(is_true)}

    def _conversations(
        self,
        cells: CellBlock,
        panels: Sequence[np.ndarray],
        facts: Sequence[CellFacts],
        rngs: list[np.random.Generator],
    ) -> dict[str, torch.Tensor]:
        """Instruction with one cell, then the answer; only the answer is learnt."""
        tokenizer = self.processor.tokenizer
        copies = self.processor.cell_token * self.processor.num_cell_tokens
        pairs = []
        for row, rng in enumerate(rngs):
            entries = slice(*cells.indptr[row : row + 2])
            panel = panels[cells.panel_index[row]]
            genes = CellGenes(self._background, cells.gene_ids[entries], cells.counts[entries], panel)
            known = facts[cells.facts_index[row]]
            pairs.append(self.writer.conversation(known, rng, genes, self.tasks, others=facts))
        prompts_ids = self._tokenise([prompt.replace(self.processor.cell_token, copies) for prompt, _ in pairs])
        answers_ids = tokenizer(["\n" + answer for _, answer in pairs], add_special_tokens=False)["input_ids"]
        answers_ids = [[*ids, tokenizer.eos_token_id] for ids in answers_ids]
        both = list(zip(prompts_ids, answers_ids, strict=True))
        sequences = [np.array(prompt + answer) for prompt, answer in both]
        labels = [np.array([-100] * len(prompt) + answer) for prompt, answer in both]
        return {
            "input_ids": torch.as_tensor(pad_rows(sequences, tokenizer.pad_token_id)),
            "attention_mask": torch.as_tensor(pad_rows([np.ones_like(sequence) for sequence in sequences], 0)),
            "labels": torch.as_tensor(pad_rows(labels, -100)),
        }


__all__ = ["CELL_LOSSES", "LOSSES", "PAIR_LOSSES", "TEXT_LOSSES", "ScMMGPTDataCollator"]
