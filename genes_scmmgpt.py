"""The gene vocabulary: names of genes, in every spelling that files use, to token ids, and a report of what was found.

Remote code: imports the standard library, numpy and transformers only, not even inside a function.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Columns of `var` that may name a gene that `var_names` does not, in the order they are asked.
NAME_COLUMNS = (
    "ensembl_id",
    "feature_id",
    "gene_ids",
    "gene_id",
    "feature_name",
    "gene_symbols",
    "gene_symbol",
    "symbol",
    "gene_name",
)
# What follows the stable part is a version (".12") or a copy of the same gene (".15_PAR_Y").
ENSEMBL_ID = re.compile(r"(ENS[A-Z]*G\d{6,})(?:[._].*)?$")
MOUSE_NAME = re.compile(r"ENSMUSG\d|[A-Z][a-z]+[0-9A-Za-z.-]*$")


def list_examples(names: Iterable[Any], limit: int = 5) -> str:
    """The first few of some names, for messages."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:limit]) or "none"
    return f"{shown}, ..." if len(names) > limit else shown


@dataclass
class GeneMatchReport:
    """
    How the genes of a file were found in the gene vocabulary.

    Args:
        num_genes (`int`): Genes of the file, without features that `var["feature_types"]` says are no genes.
        matched_by_symbol, matched_by_ensembl (`int`): Genes of the file found by each kind of name.
        merged_duplicates (`int`): Matched genes that an earlier column of the file had matched: their counts are
            summed.
        unmatched (`list[str]`): Names of the genes that were not found.
        num_vocab_genes (`int`): Genes of the vocabulary.
    """

    num_genes: int
    matched_by_symbol: int
    matched_by_ensembl: int
    merged_duplicates: int
    unmatched: list[str] = field(repr=False)
    num_vocab_genes: int

    @property
    def matched(self) -> int:
        """Genes of the file that were found."""
        return self.matched_by_symbol + self.matched_by_ensembl

    @property
    def share(self) -> float:
        """
        Distinct genes found, as a share of the file's genes or of the vocabulary's, whichever are fewer: 30,000 genes
        against a vocabulary of 765 reach 1 when they contain it, and so do 300 genes that are all in a vocabulary of
        60,000.
        """
        distinct = self.matched - self.merged_duplicates
        return distinct / max(1, min(self.num_genes, self.num_vocab_genes))

    def __str__(self) -> str:
        return (
            f"{self.matched} of {self.num_genes} genes matched a vocabulary of {self.num_vocab_genes} "
            f"({self.matched_by_symbol} by symbol, {self.matched_by_ensembl} by Ensembl id, {self.merged_duplicates} "
            f"duplicates summed): share {self.share:.1%}; unmatched: {list_examples(self.unmatched)}"
        )


class GeneResolver:
    """
    Finds genes by name.

    Args:
        vocab (`list[str]`): Gene tokens in id order; those in angle brackets are special and no genes.
        ensembl_ids (`list[str]`, *optional*): Ensembl gene id of each token, `""` where there is none.
    """

    def __init__(self, vocab: Sequence[str], ensembl_ids: Sequence[str] | None = None) -> None:
        self._vocab = vocab
        special = [token.startswith("<") and token.endswith(">") for token in vocab]
        self.gene_token_ids = np.flatnonzero(~np.array(special))
        self._symbols = {vocab[i]: i for i in self.gene_token_ids.tolist()}
        self._folded: dict[str, int] = {}
        self._ensembl: dict[str, int] = {}
        for symbol, i in self._symbols.items():
            folded = symbol.strip().upper()
            # Two genes that differ by case only are found by their exact symbol only.
            self._folded[folded] = -1 if folded in self._folded else i
            for name in (folded, ensembl_ids[i].strip().upper() if ensembl_ids else ""):
                if match := ENSEMBL_ID.match(name):
                    self._ensembl.setdefault(match[1], i)  # synonyms: the first stands for the gene

    def ids(self, names: Iterable[Any]) -> np.ndarray:
        """Token ids of names, int64, -1 where a name is unknown."""
        return np.array([self.find(name)[0] for name in names], dtype=np.int64)

    def find(self, name: Any) -> tuple[int, str]:
        """Id of a gene and how it was found; what is not a string (NaN, a position) never is."""
        if not isinstance(name, str):
            return -1, ""
        if name in self._symbols:
            return self._symbols[name], "symbol"
        folded = name.strip().upper()
        if self._folded.get(folded, -1) >= 0:
            return self._folded[folded], "case"
        match = ENSEMBL_ID.match(folded)
        if match and match[1] in self._ensembl:
            return self._ensembl[match[1]], "ensembl"
        return -1, ""

    def match(self, names: list[list[Any]], min_share: float) -> tuple[np.ndarray, GeneMatchReport]:
        """Vocabulary id of each feature of a file, -1 where there is none."""
        found = [self.find(name) for name in names[0]]
        for others in names[1:]:
            pairs = zip(found, others, strict=True)
            found = [old if old[1] else self.find(name) for old, name in pairs]
        ids = np.array([gene for gene, _ in found], dtype=np.int64)
        how = [kind for _, kind in found]
        named = [(str(name), kind) for name, kind in zip(names[0], how, strict=True) if name is not None]
        report = GeneMatchReport(
            num_genes=len(named),
            matched_by_symbol=how.count("symbol") + how.count("case"),
            matched_by_ensembl=how.count("ensembl"),
            merged_duplicates=int((ids >= 0).sum() - np.unique(ids[ids >= 0]).size),
            unmatched=[name for name, kind in named if not kind],
            num_vocab_genes=self.gene_token_ids.size,
        )
        # Cd3d would be found as CD3D; but orthology pairs the genes of two species, not spelling.
        mouse = [name for name, kind in named if kind in ("", "case") and MOUSE_NAME.match(name)]
        is_mouse = 2 * len(mouse) > report.num_genes
        if is_mouse or not report.matched or report.share < min_share:
            raise ValueError(self._explain_mismatch(report, mouse if is_mouse else [], min_share))
        logger.info(str(report))
        return ids, report

    def _explain_mismatch(self, report: GeneMatchReport, mouse: list[str], min_share: float) -> str:
        examples = list_examples(self._vocab[i] for i in self.gene_token_ids[:6])
        text = f"`cells`: {report}; the vocabulary holds: {examples}. "
        if mouse:
            return text + (
                f"{len(mouse)} names look like mouse genes (Title case or ENSMUSG): {list_examples(mouse)}. Map "
                "them to the orthologs of the vocabulary's species first."
            )
        if not self._ensembl and any(ENSEMBL_ID.match(name.upper()) for name in report.unmatched):
            text += "This vocabulary was built without Ensembl ids: pass gene symbols. "
        return text + (
            f"A share of {min_share:.1%} is needed. Pass gene symbols or Ensembl ids of the vocabulary's "
            f"species as `gene_names`, `adata.var_names` or one of its var columns {', '.join(NAME_COLUMNS)}; or "
            "lower `min_match_share` if so few genes are meant."
        )


__all__ = ["GeneMatchReport", "GeneResolver"]
