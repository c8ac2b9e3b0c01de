"""Which genes mark which cell types, from tables that the user supplies. Must not import torch or transformers."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .naming import is_telling
from .ontology import Ontology

# The columns that a table is brought to.
_COLUMNS = ["species", "term_id", "gene", "kind", "source"]
# As the Cell Marker Accordion calls them.
_ACCORDION = {"CL_ID": "term_id", "marker": "gene", "marker_type": "kind", "resource": "source"}
# ScType's two columns of symbols, by kind.
_SCTYPE = {"geneSymbolmore1": "positive", "geneSymbolmore2": "negative"}
_SPECIES = {"homo sapiens": "human", "mus musculus": "mouse"}
_MAX_MARKERS = 20


@dataclass(frozen=True)
class Markers:
    """
    Genes of one cell type, those with most support first.

    Args:
        positive (`tuple[str, ...]`): Symbols of genes that mark the type.
        negative (`tuple[str, ...]`): Symbols of genes that it is told from others by not expressing.
    """

    positive: tuple[str, ...] = ()
    negative: tuple[str, ...] = ()


class MarkerTable:
    """
    The markers of cell types, by species.

    Args:
        table (`DataFrame`): One row per statement: `species` ("human", "mouse" or "" for any), `term_id` (a current
            Cell Ontology id), `gene` (symbol), `kind` ("positive" or "negative") and `source` ("" where the table
            names none).
        ontology (`Ontology`): Finds the markers of broader types.
    """

    def __init__(self, table: pd.DataFrame, ontology: Ontology) -> None:
        self.ontology = ontology
        self._markers = _supported(table)
        self._nearest: dict[tuple[str, str], tuple[str, Markers] | None] = {}

    @classmethod
    def read(cls, paths: Iterable[str | Path], ontology: Ontology) -> "MarkerTable":
        """
        Reads CSV tables, compressed or not.

        Each has one of three sets of columns: `term_id`, `gene` and, if need be, `kind`, `species`, `source`; those
        of the Cell Marker Accordion (`CL_ID`, `marker`, `marker_type`, `species`, `resource`); or ScType's
        (`cellName`, `geneSymbolmore1`, `geneSymbolmore2`), whose names are looked up in the Cell Ontology. Where a
        table names its sources, a marker needs two of them and half as many as the type's best-supported marker has.

        Args:
            paths (`Iterable[str | Path]`): The tables.
            ontology (`Ontology`): Where names and ids are looked up.

        Raises:
            ValueError: A file is missing or has no such columns.
        """
        tables = [_read_table(Path(path), ontology) for path in paths]
        table = pd.concat(tables) if tables else pd.DataFrame(columns=_COLUMNS)
        return cls(table, ontology)

    def nearest(self, term_id: str, organism: str | None = None) -> tuple[str, Markers] | None:
        """
        The markers of a type, or of the nearest type above it that has any.

        Args:
            term_id (`str`): The type.
            organism (`str`, *optional*): Latin name of the species; human where it is not known.

        Returns:
            `tuple[str, Markers] | None`: The id of the type whose markers they are, and the markers.
        """
        species = _SPECIES.get((organism or "Homo sapiens").casefold(), (organism or "").casefold())
        key = (self.ontology.current(term_id), species)
        if key not in self._nearest:
            line = [i for i in self.ontology.line_of_descent(key[0]) if is_telling(i, self.ontology)]
            wanted = ((i, self._markers.get((species, i))) for i in line)
            self._nearest[key] = next(((i, markers) for i, markers in wanted if markers), None)
        return self._nearest[key]


def _read_table(path: Path, ontology: Ontology) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"`markers` names {path}, which is no file; give the path of a CSV table.")
    table = pd.read_csv(path, dtype=str, keep_default_na=False).rename(columns=_ACCORDION)
    if {"cellName", *_SCTYPE} <= set(table):
        table["term_id"] = [ontology.resolve(name) or "" for name in table["cellName"]]
        table = table.melt(["term_id"], list(_SCTYPE), "kind", "gene").replace({"kind": _SCTYPE})
        table = table.assign(gene=table["gene"].str.split(",")).explode("gene")
    if not {"term_id", "gene"} <= set(table):
        raise ValueError(
            f"`markers`: {path} has the columns {list(table.columns)}, expected term_id and gene, or those of the "
            "Cell Marker Accordion or ScType; rename its columns."
        )
    for name, default in (("species", ""), ("kind", "positive"), ("source", "")):
        table[name] = table[name].str.strip().str.casefold() if name in table else default
    table["species"] = table["species"].replace(_SPECIES)
    current = {i: ontology.find_current(i) if ontology.knows(i) else None for i in table["term_id"].unique()}
    table["term_id"], table["gene"] = table["term_id"].map(current), table["gene"].str.strip()
    unknown = sorted(set(table["kind"]) - {"positive", "negative"})
    if unknown:
        raise ValueError(f"`markers`: {path} holds markers of the kind {unknown}; expected positive or negative.")
    return table.loc[table["term_id"].notna() & (table["gene"] != ""), _COLUMNS].drop_duplicates()


def _supported(table: pd.DataFrame) -> dict[tuple[str, str], Markers]:
    """The well-supported markers by species and type; of a gene that is said to be both, what more sources say."""
    group, gene = ["species", "term_id", "kind"], ["species", "term_id", "gene"]
    # In the order of the table where support is equal.
    support = table.groupby([*group, "gene"], sort=False)["source"].agg(number="nunique", named="max").reset_index()
    best = support.groupby(group)["number"].transform("max")
    enough = (support["named"] == "") | ((support["number"] >= 2) & (2 * support["number"] >= best))
    undisputed = 2 * support["number"] > support.groupby(gene)["number"].transform("sum")
    support = support[enough & undisputed].sort_values("number", ascending=False, kind="stable")
    chosen: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
    for (species, term_id, kind), genes in support.groupby(group)["gene"]:
        for name in (species,) if species else ("human", "mouse"):
            chosen.setdefault((name, term_id), {})[kind] = tuple(genes[:_MAX_MARKERS])
    return {key: Markers(**kinds) for key, kinds in chosen.items()}


__all__ = ["MarkerTable", "Markers"]
