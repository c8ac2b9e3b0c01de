"""What is known of a cell: the fields of `obs` that texts speak of, with missing values recognised.

Imports only `grammar` and `ontology`; must not import torch or transformers.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .grammar import listing
from .ontology import Ontology

if TYPE_CHECKING:
    from pandas import DataFrame

# How people leave a field of `obs` empty.
_MISSING = frozenset({"", "unknown", "nan", "na", "n/a", "none", "<na>", "not available", "not applicable"})
# What labels say that are no cell type.
_NO_TYPE = _MISSING | {"other", "others", "unassigned", "not assigned", "unclassified", "undetermined", "unlabelled"}
_NO_TYPE |= {"unlabeled", "ambiguous", "doublet", "doublets"}
_SEXES = {"female": "female", "f": "female", "male": "male", "m": "male"}
_CONDITIONS = {"ctrl": "control", "stim": "stimulated"}
# Column of `obs`, as CELLxGENE names it -> field of `CellFacts`.
FACT_COLUMNS = {
    "tissue": "tissue",
    "disease": "disease",
    "sex": "sex",
    "assay": "assay",
    "donor_id": "donor",
    "condition": "condition",
    "organism": "organism",
    "development_stage": "development_stage",
    "self_reported_ethnicity": "ethnicity",
    "suspension_type": "suspension_type",
}
# Columns whose term is kept beside its name, since texts may define it.
_ID_FIELDS = {"tissue": "tissue_id", "disease": "disease_id", "assay": "assay_id"}
# The species of CELLxGENE; the taxonomy that names them all takes half a minute to read.
_ORGANISMS = {
    "NCBITaxon:6239": "Caenorhabditis elegans",
    "NCBITaxon:7227": "Drosophila melanogaster",
    "NCBITaxon:7955": "Danio rerio",
    "NCBITaxon:9483": "Callithrix jacchus",
    "NCBITaxon:9541": "Macaca fascicularis",
    "NCBITaxon:9544": "Macaca mulatta",
    "NCBITaxon:9595": "Gorilla gorilla gorilla",
    "NCBITaxon:9598": "Pan troglodytes",
    "NCBITaxon:9606": "Homo sapiens",
    "NCBITaxon:9823": "Sus scrofa",
    "NCBITaxon:9986": "Oryctolagus cuniculus",
    "NCBITaxon:10090": "Mus musculus",
    "NCBITaxon:10116": "Rattus norvegicus",
    "NCBITaxon:30608": "Microcebus murinus",
}
_TISSUE_TYPE = "tissue_type"
# What stands behind an organ's name where the cells are of no such organ.
_GROWN = {
    "organoid": "organoid",
    "cell culture": "culture",
    "primary cell culture": "culture",
    "cell line": "cell line",
}
# Between several values of one field; early Census releases wrote ids with commas.
_SEVERAL = re.compile(r"\s*\|\|\s*|,(?=\w+:)")


@dataclass(frozen=True)
class CellFacts:
    """
    What is known of one cell; `None` where it is not.

    Args:
        cell_type (`str`, *optional*): The author's label, as written.
        cell_type_id (`str`, *optional*): Its Cell Ontology id.
        tissue (`str`, *optional*): UBERON name of the tissue, such as "blood", or of what grew from it: "lung
            organoid".
        disease (`str`, *optional*): MONDO name of the disease, or "normal"; several joined by "and".
        sex (`str`, *optional*): "female" or "male".
        assay (`str`, *optional*): EFO name of the assay, such as "10x 3' v2".
        donor (`str`, *optional*): Identifier of the donor.
        condition (`str`, *optional*): Treatment or state, such as "stimulated".
        organism (`str`, *optional*): Latin name of the species.
        development_stage (`str`, *optional*): HsapDv or MmusDv name, such as "65-year-old stage".
        ethnicity (`str`, *optional*): Self-reported, such as "European"; several joined by "and".
        suspension_type (`str`, *optional*): "cell" or "nucleus".
        tissue_id (`str`, *optional*): UBERON id of the tissue itself.
        disease_id (`str`, *optional*): MONDO id, where there is one disease.
        assay_id (`str`, *optional*): EFO id.
    """

    cell_type: str | None = None
    cell_type_id: str | None = None
    tissue: str | None = None
    disease: str | None = None
    sex: str | None = None
    assay: str | None = None
    donor: str | None = None
    condition: str | None = None
    organism: str | None = None
    development_stage: str | None = None
    ethnicity: str | None = None
    suspension_type: str | None = None
    tissue_id: str | None = None
    disease_id: str | None = None
    assay_id: str | None = None

    @classmethod
    def from_obs(cls, obs: Mapping[str, Any], ontology: Ontology, label_key: str = "cell_type") -> "CellFacts":
        """
        Reads the facts of a cell from its row of `adata.obs`.

        Columns are named as CELLxGENE names them: `tissue`, `disease`, `sex`, `assay`, `donor_id`, `condition`,
        `organism`, `development_stage`, `self_reported_ethnicity`, `suspension_type`, each of them with or without its
        `*_ontology_term_id`, and `tissue_type`. A name stays as it is written; where only the id is there, the
        ontology names it. Empty strings, "unknown" and the like, and NaN count as missing, and so do a sex coded in
        any other way than in words and labels such as "Other". The cell type's id is that of
        `cell_type_ontology_term_id` when labels come from `cell_type`; for another label column, which may be coarser
        or finer, it is what the label itself resolves to.

        Args:
            obs (`Mapping`): A row of `obs`, such as a dict or a pandas Series.
            ontology (`Ontology`): Where labels and ids are looked up.
            label_key (`str`, *optional*, defaults to `"cell_type"`): The column with the label.

        Returns:
            `CellFacts`: The facts, ids brought up to date.

        Raises:
            ValueError: `label_key` is no column, or an id is in none of the releases of its ontology.
        """
        if label_key not in obs and not (label_key == "cell_type" and _id_column(label_key) in obs):
            columns = ", ".join(sorted(map(repr, obs.keys()))) or "none"
            raise ValueError(
                f"`label_key` is {label_key!r}, but the columns of `obs` are: {columns}; pass the "
                "column that holds the cell types."
            )
        fields: dict[str, str | None] = {}
        for column, field in FACT_COLUMNS.items():
            fields[field], term_id = _name_and_id(obs, column, ontology)
            if column in _ID_FIELDS:
                fields[_ID_FIELDS[column]] = term_id
        fields["sex"] = _SEXES.get((fields["sex"] or "").casefold())
        condition = fields["condition"]
        fields["condition"] = _CONDITIONS.get((condition or "").casefold(), condition)
        fields["organism"] = fields["organism"] or _ORGANISMS.get(str(obs.get(_id_column("organism"))))
        grown = _GROWN.get(str(obs.get(_TISSUE_TYPE)).casefold())
        if grown and fields["tissue"]:
            fields["tissue"], fields["tissue_id"] = f"{fields['tissue']} {grown}", None
        label, cell_type_id = _type_and_id(obs, ontology, label_key)
        return cls(cell_type=label, cell_type_id=cell_type_id, **fields)


def fact_columns(label_key: str = "cell_type") -> list[str]:
    """The columns of `obs` that [`CellFacts.from_obs`] reads where they are there."""
    ids = [_id_column(column) for column in ("cell_type", *FACT_COLUMNS)]
    return list(dict.fromkeys([label_key, *FACT_COLUMNS, _TISSUE_TYPE, *ids]))


def read_facts(obs: "DataFrame", ontology: Ontology, label_key: str = "cell_type") -> list[CellFacts]:
    """
    The facts of every cell of `adata.obs`; each distinct row is read once.

    Args:
        obs (`DataFrame`): columns named as CELLxGENE names them; see [`CellFacts.from_obs`].
        ontology (`Ontology`): where labels are looked up.
        label_key (`str`): column of the author's labels.
    """
    wanted = set(fact_columns(label_key))
    frame = obs[[name for name in obs.columns if name in wanted]]
    if len(frame) == 0:
        return []
    codes = [pd.factorize(frame[name])[0] for name in frame.columns] or [np.zeros(len(frame), dtype=np.int64)]
    _, first, row = np.unique(np.stack(codes, axis=1), axis=0, return_index=True, return_inverse=True)
    distinct = frame.iloc[first].astype(object).to_dict("records")
    known = [CellFacts.from_obs(values, ontology, label_key) for values in distinct]
    return [known[i] for i in row.ravel()]


def _id_column(column: str) -> str:
    return f"{column.removesuffix('_id')}_ontology_term_id"


def _name_and_id(obs: Mapping[str, Any], column: str, ontology: Ontology) -> tuple[str | None, str | None]:
    """Returns a field's name, and the current id of its term where it is of one term that is known here."""
    written, ids = _known(obs.get(column)), _split(obs.get(_id_column(column)))
    term_ids = [ontology.find_current(term_id) for term_id in ids if ontology.knows(term_id)]
    names = _split(written)
    if not names and ids and len(term_ids) == len(ids) and all(term_ids):
        names = [ontology.label(term_id) for term_id in term_ids]
    return (listing(names) if names else None), (term_ids[0] if len(ids) == 1 and term_ids else None)


def _type_and_id(obs: Mapping[str, Any], ontology: Ontology, label_key: str) -> tuple[str | None, str | None]:
    if label_key == "cell_type":
        label, cell_type_id = _name_and_id(obs, label_key, ontology)
    else:
        label, cell_type_id = _known(obs[label_key]), None
    if label is None or label.casefold() in _NO_TYPE:
        is_known = (cell_type_id or "").startswith("CL:")
        return (ontology.label(cell_type_id), cell_type_id) if is_known else (None, None)
    # Fly, worm and fish atlases carry ids of their own ontologies, which have no names here.
    if not (cell_type_id or "").startswith("CL:"):
        cell_type_id = ontology.resolve(label)
    return label, cell_type_id


def _split(value: Any) -> list[str]:
    """Returns the values of a field that may hold several, such as "MONDO:0005148 || MONDO:0011122"."""
    return [part for part in _SEVERAL.split(_known(value) or "") if _known(part)]


def number_facts(facts: Iterable[CellFacts]) -> tuple[list[CellFacts], np.ndarray]:
    """Distinct facts in the order of their first cell, and of which each cell is, `(C,)` int32."""
    rows: dict[CellFacts, int] = {}
    index = np.array([rows.setdefault(fact, len(rows)) for fact in facts], dtype=np.int32)
    return list(rows), index


def _known(value: Any) -> str | None:
    """Returns a field of `obs` as text on one line, or `None` where it says nothing."""
    # Missing is NaN, or pandas' NA, which has no truth value.
    if value is None or value is pd.NA or (isinstance(value, float) and np.isnan(value)):
        return None
    text = " ".join(str(value).split())
    return None if text.casefold() in _MISSING else text
