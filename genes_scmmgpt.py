"""The gene vocabulary: names of genes, in every spelling that files use, to token ids, and a report of what was found.

Remote code: imports the standard library, numpy and transformers only, not even inside a function.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
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
# What stands before the number of an Ensembl gene id: the species of CELLxGENE that Ensembl names so.
SPECIES = {
    "ENSG": "human",
    "ENSMUSG": "mouse",
    "ENSRNOG": "rat",
    "ENSMMUG": "rhesus macaque",
    "ENSMFAG": "crab-eating macaque",
    "ENSPTRG": "chimpanzee",
    "ENSGGOG": "gorilla",
    "ENSCJAG": "marmoset",
    "ENSMICG": "mouse lemur",
    "ENSOCUG": "rabbit",
    "ENSSSCG": "pig",
    "ENSDARG": "zebrafish",
}
NAME_SEPARATOR = "|"  # of several names in one string, as in the files of HGNC
# Rodents' symbols are written so, those of primates in capitals.
_TITLE_CASE = re.compile(r"[A-Z][a-z]+[0-9A-Za-z.-]*$")
# The second of two columns of one name: "-1" by `var_names_make_unique` of AnnData, ".1" by `make.unique` of R.
_COPY = re.compile(r"(.+)([-.])(\d{1,2})$")
# Antibodies are called after clusters of differentiation; of a transcriptome's genes few are, and by their symbols.
_ANTIBODY = re.compile(r"CD\d")
_FEWEST_ANTIBODIES, _SHARE_OF_ANTIBODIES = 10, 0.2

_Found = tuple[tuple[int, ...], str]  # genes that a name may mean, none if it is unknown, and the kind of name


def list_examples(names: Iterable[Any], limit: int = 5) -> str:
    """The first few of some names, for messages."""
    names = list(names)
    shown = ", ".join(repr(str(name)) for name in names[:limit]) or "none"
    return f"{shown}, ..." if len(names) > limit else shown


@dataclass
class GeneMatchReport:
    """
    How the genes of a file were found in the gene vocabulary. Every gene is matched, ambiguous or unmatched.

    Args:
        num_genes (`int`): Genes of the file, without features that `var["feature_types"]` says are no genes.
        matched_by_symbol, matched_by_case, matched_by_ensembl, matched_by_alias, matched_by_ortholog (`int`): Genes of
            the file found by each kind of name: the current symbol, the same in other letter case, the Ensembl id,
            another name of the gene, a gene of another species. A copy ("CD3D-1") counts as the name it is a copy of.
        merged_duplicates (`int`): Matched genes that an earlier column of the file had matched: their counts are
            summed.
        unmatched (`list[str]`): Names of the genes that were not found.
        ambiguous (`dict[str, list[str]]`): Names that several genes of the vocabulary have, and these genes. None of
            them is chosen.
        species (`str`, *optional*): Species of the file, such as "mouse", if its names tell it: by Ensembl prefix, by
            who knows most of them, the vocabulary or its orthologs of a species, or by letter case.
        num_vocab_genes (`int`): Genes of the vocabulary.
    """

    num_genes: int
    matched_by_symbol: int
    matched_by_case: int
    matched_by_ensembl: int
    matched_by_alias: int
    matched_by_ortholog: int
    merged_duplicates: int
    unmatched: list[str] = field(repr=False)
    ambiguous: dict[str, list[str]] = field(repr=False)
    species: str | None
    num_vocab_genes: int

    @property
    def matched(self) -> int:
        """Genes of the file that were found."""
        by_name = self.matched_by_symbol + self.matched_by_case + self.matched_by_ensembl + self.matched_by_alias
        return by_name + self.matched_by_ortholog

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
        counted = {
            "by symbol": self.matched_by_symbol,
            "by symbol in other case": self.matched_by_case,
            "by Ensembl id": self.matched_by_ensembl,
            "by alias": self.matched_by_alias,
            f"as orthologs of {self.species}": self.matched_by_ortholog,
            "duplicates summed": self.merged_duplicates,
        }
        how = ", ".join(f"{count} {what}" for what, count in counted.items() if count)
        text = f"{self.matched} of {self.num_genes} genes matched a vocabulary of {self.num_vocab_genes}"
        text += f" ({how}): share {self.share:.1%}; " if how else "; "
        if self.ambiguous:
            names = [f"{name} of {' or '.join(genes[:3])}" for name, genes in self.ambiguous.items()]
            text += f"{len(names)} ambiguous: {list_examples(names)}; "
        return f"{text}{len(self.unmatched)} unmatched: {list_examples(self.unmatched)}"


def _fold(name: str) -> str:
    return name.strip().upper()


def _stable_id(name: str) -> str | None:
    """The Ensembl id in a name, without version, also from "SYMBOL_ENSG00000000001", as CELLxGENE tells genes of one
    symbol apart."""
    match = ENSEMBL_ID.match(_fold(name)) or ENSEMBL_ID.match(_fold(name.rpartition("_")[2]))
    return match and match[1]


def _owners(names: Iterable[tuple[str, int]]) -> dict[str, tuple[int, ...]]:
    """The genes that have each name, in the order given."""
    owners: dict[str, tuple[int, ...]] = {}
    for name, gene in names:
        there = owners.get(name, ())
        if gene not in there:
            owners[name] = (*there, gene)
    return owners


def _species_by_id(names: Sequence[str]) -> str | None:
    """The species that the Ensembl prefix of most names shows."""
    prefixes = Counter(match[1].rstrip("0123456789") for name in names if (match := ENSEMBL_ID.match(name)))
    prefix, count = max(prefixes.items(), key=lambda item: item[1], default=("", 0))
    return SPECIES.get(prefix, prefix) if 2 * count > len(names) else None


def _species_by_case(names: Sequence[str]) -> str | None:
    """The kind of species whose symbols are written as most names are."""
    if 2 * sum(_TITLE_CASE.match(name) is not None for name in names) > len(names):
        return "mouse"
    return "human" if 2 * sum(map(str.isupper, names)) > len(names) else None


class GeneResolver:
    """
    Finds genes by name, and never takes one of several genes that a name may mean.

    Genes of the vocabulary's own species are looked up as the exact symbol, then without regard to case, then as an
    Ensembl id without its version, then as an alias; a copy of a name ("CD3D-1") last. A current symbol therefore
    always beats an alias. Genes of another species are looked up as orthologs only: orthology pairs the genes of two
    species, not spelling.

    Args:
        vocab (`Sequence[str]`): Gene tokens in id order; those in angle brackets are special and no genes.
        ensembl_ids (`Sequence[str]`, *optional*): Ensembl gene id of each token, `""` where there is none. Of tokens
            with the same id the first stands for the gene.
        aliases (`Mapping[str, str]`, *optional*): Token -> its other names, such as `"CD20|B1"`: aliases, previous
            symbols, further Ensembl ids.
        orthologs (`Mapping[str, Mapping[str, str]]`, *optional*): Species -> token -> names of its orthologs there,
            such as `{"mouse": {"CD3D": "Cd3d|ENSMUSG00000032094"}}`. A name that several tokens have is ambiguous.

    Raises:
        `ValueError`: when `aliases` or `orthologs` hold a token that is not in the vocabulary, or no joined names, or
        orthologs are of the vocabulary's own species.
    """

    def __init__(
        self,
        vocab: Sequence[str],
        ensembl_ids: Sequence[str] | None = None,
        aliases: Mapping[str, str] | None = None,
        orthologs: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        self._vocab = vocab
        special = [token.startswith("<") and token.endswith(">") for token in vocab]
        self.gene_token_ids = np.flatnonzero(~np.array(special, dtype=bool))
        self._symbols = {vocab[i]: i for i in self.gene_token_ids.tolist()}
        self._folded = _owners((_fold(symbol), i) for symbol, i in self._symbols.items())
        symbols = list(self._symbols)
        self.species = _species_by_id([name for name in ensembl_ids or symbols if name]) or _species_by_case(symbols)
        if orthologs and self.species in orthologs:
            raise ValueError(
                f"`orthologs` has {self.species} genes, but so has the vocabulary, as its names look. Drop them, or "
                "pass `ensembl_ids`, which tell the species for certain."
            )
        ids: dict[str, tuple[int, ...]] = {}
        for symbol, i in self._symbols.items():
            for name in (symbol, ensembl_ids[i] if ensembl_ids else ""):
                if stable := _stable_id(name):
                    ids.setdefault(stable, (i,))
        others = list(self._split("aliases", aliases or {}))
        self._ensembl = _owners((stable, i) for name, i in others if (stable := _stable_id(name))) | ids
        folded = _owners((_fold(name), i) for name, i in others)
        self._aliases = {name: genes for name, genes in folded.items() if name not in self._folded}
        self._orthologs = {
            species: _owners(
                (_stable_id(name) or name, i) for name, i in self._split(f"orthologs[{species!r}]", names)
            )
            for species, names in (orthologs or {}).items()
        }

    def _split(self, argument: str, names: Mapping[str, str]) -> Iterable[tuple[str, int]]:
        if wrong := {key: value for key, value in names.items() if key not in self._symbols or type(value) is not str}:
            raise ValueError(
                f"`{argument}` must map gene tokens of `vocab` to strings such as 'CD20{NAME_SEPARATOR}B1'; found "
                f"{list_examples(wrong.items())}. Drop what is no token, and join names with {NAME_SEPARATOR!r}."
            )
        return (
            (name, self._symbols[token]) for token, joined in names.items() for name in joined.split(NAME_SEPARATOR)
        )

    def ids(self, names: Iterable[Any], species: str | None = None) -> np.ndarray:
        """
        Token ids of names, int64, -1 where a name is unknown, ambiguous or no string.

        Raises:
            `ValueError`: when the vocabulary knows no orthologs of `species`.
        """
        if species not in (None, self.species, *self._orthologs):
            raise ValueError(
                f"`species`={species!r}: the vocabulary holds {self.species or 'other'} genes and orthologs of "
                f"{list_examples(self._orthologs)}. Make one that knows them with `scmmgpt data genes --orthologs`."
            )
        return self._resolve([list(names)], species)[0]

    def match(self, columns: Sequence[Sequence[Any]], min_share: float) -> tuple[np.ndarray, GeneMatchReport]:
        """
        Token ids of the features of a file, and how they were found.

        Args:
            columns (`Sequence[Sequence[Any]]`): One or several lists of names, one for each feature. The first names
                the features, the others fill its gaps; None is a feature but no gene.
            min_share (`float`): Least [`GeneMatchReport.share`].

        Returns:
            `tuple[np.ndarray, GeneMatchReport]`: int64 ids, -1 where there is none, and the report.

        Raises:
            `ValueError`: when the genes are those of another species without orthologs in the vocabulary, the features
            are surface proteins, or fewer than `min_share` match.
        """
        species = self._species_of(columns)
        if species not in (None, *self._orthologs) and self.species not in (None, species):
            raise ValueError(self._explain_species(species, columns[0]))
        ids, kinds, candidates = self._resolve(columns, species)
        named = [i for i, name in enumerate(columns[0]) if name is not None]
        report = GeneMatchReport(
            num_genes=len(named),
            **{f"matched_by_{kind}": kinds.count(kind) for kind in ("symbol", "case", "ensembl", "alias", "ortholog")},
            merged_duplicates=int((ids >= 0).sum() - np.unique(ids[ids >= 0]).size),
            unmatched=[str(columns[0][i]) for i in named if not kinds[i] and i not in candidates],
            ambiguous={str(columns[0][i]): [self._vocab[gene] for gene in genes] for i, genes in candidates.items()},
            species=species,
            num_vocab_genes=self.gene_token_ids.size,
        )
        proteins = [str(columns[0][i]) for i in named if kinds[i] != "symbol" and _ANTIBODY.match(str(columns[0][i]))]
        if len(proteins) >= max(_FEWEST_ANTIBODIES, _SHARE_OF_ANTIBODIES * report.num_genes):
            raise ValueError(
                f"`cells`: {len(proteins)} of {report.num_genes} features look like surface proteins "
                f"({list_examples(proteins)}), whose counts are not those of genes. Pass the RNA counts, or say in "
                '`var["feature_types"]` which features are "Gene Expression".'
            )
        if not report.matched or report.share < min_share:
            raise ValueError(self._explain_mismatch(report, min_share))
        logger.info(str(report))
        return ids, report

    def _species_of(self, columns: Sequence[Sequence[Any]]) -> str | None:
        """The species of a file: the first column that tells it decides."""
        for column in columns:
            names = [name for name in column if isinstance(name, str) and name]
            known = {self.species: sum(name in self._symbols for name in names)}
            known |= {species: sum(name in index for name in names) for species, index in self._orthologs.items()}
            best = max(known, key=known.__getitem__)  # among equals the vocabulary's own, which is the first
            by_symbol = best if 2 * known[best] > len(names) else None
            if species := _species_by_id(names) or by_symbol or _species_by_case(names):
                return species
        return None

    def _resolve(
        self, columns: Sequence[Sequence[Any]], species: str | None
    ) -> tuple[np.ndarray, list[str], dict[int, tuple[int, ...]]]:
        """Ids of features, the kind of name that found each, and of each ambiguous one the genes that it may be."""
        ids, kinds = np.full(len(columns[0]), -1, dtype=np.int64), [""] * len(columns[0])
        candidates: dict[int, tuple[int, ...]] = {}

        def fill_gaps(column: Sequence[Any], find: Callable[[str], _Found]) -> None:
            for i, name in enumerate(column):
                if kinds[i] or not isinstance(name, str):
                    continue
                genes, kind = find(name)
                if len(genes) == 1:
                    ids[i], kinds[i] = genes[0], kind
                    candidates.pop(i, None)
                elif genes:
                    candidates.setdefault(i, genes)

        direct, *others = self._finders(species)
        for find in (direct, *others):
            # A weaker kind of name is asked when no column has a stronger one.
            for column in columns:
                fill_gaps(column, find)
        for column in columns:
            there = set(filter(lambda name: isinstance(name, str), column))
            rest = [None if i in candidates else name for i, name in enumerate(column)]
            fill_gaps(rest, lambda name, there=there: self._find_copy(name, there, direct))
        return ids, kinds, candidates

    def _finders(self, species: str | None) -> list[Callable[[str], _Found]]:
        if species in self._orthologs:
            index = self._orthologs[species]
            return [lambda name: (index.get(_stable_id(name) or name.strip(), ()), "ortholog")]
        return [self._find_direct, lambda name: (self._aliases.get(_fold(name), ()), "alias")]

    def _find_direct(self, name: str) -> _Found:
        if name in self._symbols:
            return (self._symbols[name],), "symbol"
        # Two genes that differ by case only are found by their exact symbol only.
        if genes := self._folded.get(_fold(name)):
            return genes, "case"
        return self._ensembl.get(_stable_id(name) or "", ()), "ensembl"

    def _find_copy(self, name: str, there: set[str], find: Callable[[str], _Found]) -> _Found:
        """The gene of "CD3D-1", or of "CD3D-2" where there is a "CD3D-1" too: IGHV1-69-2 is no copy of IGHV1-69."""
        match = _COPY.match(name)
        if match and (match[3] == "1" or f"{match[1]}{match[2]}{int(match[3]) - 1}" in there):
            return find(match[1])
        return (), ""

    def _explain_species(self, species: str, names: Sequence[Any]) -> str:
        return (
            f"`cells`: its names look like {species} genes: {list_examples(names)}; the vocabulary holds "
            f"{self.species} genes: {list_examples(self._symbols)}, and no {species} orthologs. Make a vocabulary "
            f"that knows them with `scmmgpt data genes --orthologs`, or map them to {self.species} orthologs first."
        )

    def _explain_mismatch(self, report: GeneMatchReport, min_share: float) -> str:
        text = f"`cells`: {report}; the vocabulary holds: {list_examples(self._symbols)}. "
        if not self._ensembl and any(_stable_id(name) for name in report.unmatched):
            text += "This vocabulary was built without Ensembl ids: pass gene symbols. "
        return text + (
            f"A share of {min_share:.1%} is needed. Pass gene symbols or Ensembl ids of the vocabulary's species as "
            f"`gene_names`, `adata.var_names` or one of its var columns {', '.join(NAME_COLUMNS)}; or lower "
            "`min_match_share` if so few genes are meant."
        )


__all__ = ["GeneMatchReport", "GeneResolver"]
