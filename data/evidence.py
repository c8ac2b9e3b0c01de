"""What the counts of one cell allow to say about genes. Imports `profile` and numpy; must not import torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .profile import characteristic_genes

# Genes of a typical transcriptome that are worth asking about.
_NUM_COMMON = 2000
# A gene marks a cell that spends more than this times the usual share of its molecules on it.
_ENRICHMENT = 2.0


@dataclass(frozen=True, eq=False)
class GeneBackground:
    """
    The genes that cells are told by, and what is usual of them. V gene tokens.

    Args:
        symbols (`Sequence[str]`): Symbol of each token, of length `V`.
        profile (`np.ndarray` of shape `(V,)`): Typical transcriptome; see [`mean_profile`].
        num_named (`int`): Genes at most that a description may name.
    """

    symbols: Sequence[str]
    profile: np.ndarray
    num_named: int = 5
    id_of: dict[str, int] = field(init=False, repr=False)
    common: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "id_of", {symbol: i for i, symbol in enumerate(self.symbols)})
        order = np.argsort(-self.profile, kind="stable")[:_NUM_COMMON]
        object.__setattr__(self, "common", order[self.profile[order] > 0])


@dataclass(frozen=True, eq=False)
class CellGenes:
    """
    The expressed and the measured genes of one cell. N expressed genes, M measured ones.

    A gene that was measured and has no molecule is "not detected", which is less than "not expressed": most molecules
    of a cell are never seen. Of a gene that was not measured nothing can be said.

    Args:
        background (`GeneBackground`): Symbols and typical shares.
        gene_ids (`np.ndarray` of shape `(N,)`): Token ids, ascending.
        counts (`np.ndarray` of shape `(N,)`): Molecules, above 0.
        panel (`np.ndarray` of shape `(M,)`): Token ids of the measured genes, ascending.
    """

    background: GeneBackground
    gene_ids: np.ndarray
    counts: np.ndarray
    panel: np.ndarray

    def top(self) -> list[str]:
        """Returns the symbols that set the cell apart, most characteristic first; see [`characteristic_genes`]."""
        background = self.background
        genes = characteristic_genes(self.gene_ids, self.counts, background.profile, background.num_named)
        return [background.symbols[gene] for gene in genes]

    def enriched(self, symbols: Iterable[str]) -> list[str]:
        """Returns those of `symbols` that the cell expresses clearly more than is usual."""
        names, places, found = self._look_up(symbols, self.gene_ids)
        if not found.any():
            return []
        usual = self.background.profile[[self.background.id_of[name] for name in names]]
        found &= self.counts[places] / self.counts.sum() > _ENRICHMENT * usual
        return [name for name, keep in zip(names, found, strict=True) if keep]

    def detected(self, symbols: Iterable[str]) -> list[str]:
        """Returns those of `symbols` of which the cell has a molecule."""
        names, _, found = self._look_up(symbols, self.gene_ids)
        return [name for name, keep in zip(names, found, strict=True) if keep]

    def not_detected(self, symbols: Iterable[str]) -> list[str]:
        """Returns those of `symbols` that were measured and of which the cell has no molecule."""
        names, _, measured = self._look_up(symbols, self.panel)
        seen = set(self.detected(names))
        return [name for name, keep in zip(names, measured, strict=True) if keep and name not in seen]

    def draw_not_detected(self, wanted: int, rng: np.random.Generator) -> list[str]:
        """Draws at most `wanted` genes that many cells express and this one, though it was looked at, does not."""
        common = self.background.common
        if not len(common):
            return []
        drawn = dict.fromkeys(common[rng.integers(len(common), size=6 * wanted)].tolist())
        return self.not_detected(self.background.symbols[gene] for gene in drawn)[:wanted]

    def _look_up(self, symbols: Iterable[str], among: np.ndarray) -> tuple[list[str], np.ndarray, np.ndarray]:
        """Known symbols, the place of each in the ascending ids `among`, and whether it is there."""
        id_of = self.background.id_of
        names = [symbol for symbol in dict.fromkeys(symbols) if symbol in id_of]
        ids = np.array([id_of[name] for name in names], dtype=np.int64)
        if not len(among):
            return names, np.zeros(len(names), dtype=np.int64), np.zeros(len(names), dtype=bool)
        places = np.minimum(np.searchsorted(among, ids), len(among) - 1)
        return names, places, among[places] == ids


__all__ = ["CellGenes", "GeneBackground"]
