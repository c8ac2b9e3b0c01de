"""What is known of a cell: the fields of `obs` that texts speak of, with missing values recognised.

Imports only `ontology`; must not import torch or transformers.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .ontology import Ontology

if TYPE_CHECKING:
    from pandas import DataFrame

# How people leave a field of `obs` empty.
_MISSING = frozenset({"", "unknown", "nan", "na", "n/a", "none", "<na>", "not available", "not applicable"})
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
}


@dataclass(frozen=True)
class CellFacts:
    """
    What is known of one cell; `None` where it is not.

    Args:
        cell_type (`str`, *optional*): The author's label, as written.
        cell_type_id (`str`, *optional*): Its Cell Ontology id.
        tissue (`str`, *optional*): UBERON name of the tissue, such as "blood".
        disease (`str`, *optional*): MONDO name of the disease, or "normal".
        sex (`str`, *optional*): "female" or "male".
        assay (`str`, *optional*): EFO name of the assay, such as "10x 3' v2".
        donor (`str`, *optional*): Identifier of the donor.
        condition (`str`, *optional*): Treatment or state, such as "stimulated".
        organism (`str`, *optional*): Latin name of the species.
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

    @classmethod
    def from_obs(cls, obs: Mapping[str, Any], ontology: Ontology, label_key: str = "cell_type") -> "CellFacts":
        """
        Reads the facts of a cell from its row of `adata.obs`.

        Columns are named as CELLxGENE names them: `tissue`, `disease`, `sex`, `assay`, `donor_id`,
        `condition`, `organism`. Empty strings, "unknown" and the like, and NaN count as missing,
        and so does a sex coded in any other way than in words. The id is that of
        `cell_type_ontology_term_id` when labels come from `cell_type`; for another label column,
        which may be coarser or finer, it is what the label itself resolves to.

        Args:
            obs (`Mapping`): A row of `obs`, such as a dict or a pandas Series.
            ontology (`Ontology`): Where labels and ids are looked up.
            label_key (`str`, *optional*, defaults to `"cell_type"`): The column with the label.

        Returns:
            `CellFacts`: The facts, the id brought up to date.

        Raises:
            ValueError: `label_key` is no column, or a Cell Ontology id is unknown.
        """
        if label_key not in obs:
            columns = ", ".join(sorted(map(repr, obs.keys()))) or "none"
            raise ValueError(
                f"`label_key` is {label_key!r}, but the columns of `obs` are: {columns}; pass the "
                "column that holds the cell types."
            )
        label = _known(obs[label_key])
        fields = {field: _known(obs.get(column)) for column, field in FACT_COLUMNS.items()}
        fields["sex"] = _SEXES.get((fields["sex"] or "").casefold())
        condition = fields["condition"]
        fields["condition"] = _CONDITIONS.get((condition or "").casefold(), condition)

        written_id = _known(obs.get("cell_type_ontology_term_id"))
        # Fly, worm and fish atlases carry ids of their own ontologies, which have no names here.
        if label_key == "cell_type" and written_id and written_id.startswith("CL:"):
            cell_type_id = ontology.current(written_id)
        else:
            cell_type_id = ontology.resolve(label) if label else None
        return cls(cell_type=label, cell_type_id=cell_type_id, **fields)


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


def number_facts(facts: Iterable[CellFacts]) -> tuple[list[CellFacts], np.ndarray]:
    """Distinct facts in the order of their first cell, and of which each cell is, `(C,)` int32."""
    rows: dict[CellFacts, int] = {}
    index = np.array([rows.setdefault(fact, len(rows)) for fact in facts], dtype=np.int32)
    return list(rows), index


def _known(value: Any) -> str | None:
    """Returns a field of `obs` as text on one line, or `None` where it says nothing."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    text = " ".join(str(value).split())
    return None if text.casefold() in _MISSING else text
