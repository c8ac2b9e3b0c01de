"""SOMA experiments in the layout of the CELLxGENE Census, and the Census itself. tiledbsoma is imported late.

Layout: measurement `RNA`, layer `raw`. A Census is a collection of `census_data` (one experiment per organism) and
`census_info`, whose table `datasets` says which collection (a study) each dataset belongs to and how it is cited.
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from .files import sha256_of, size_of
from .layout import OBS_COLUMNS
from .sources import CountSource

CENSUS = "census"
# SOMA's default is 1 GiB for each column that is read.
_CONTEXT = {"soma.init_buffer_bytes": 1 << 27, "vfs.s3.region": "us-west-2"}


def open_soma(location: str, census_version: str | None) -> Any:
    """
    The experiment or collection at a place.

    Raises:
        ImportError: the extra is not installed.
        ValueError: there is none.
    """
    try:
        import tiledbsoma

        context = tiledbsoma.SOMATileDBContext(tiledb_config=_CONTEXT)
        if location == CENSUS:
            import cellxgene_census

            return cellxgene_census.open_soma(census_version=census_version, context=context)
    except ModuleNotFoundError as error:
        extra = "census" if error.name == "cellxgene_census" else "soma"
        raise ImportError(f"This source needs: pip install 'scmmgpt[{extra}]' ({error}).") from error
    try:
        return tiledbsoma.open(location, context=context)
    except (tiledbsoma.DoesNotExistError, tiledbsoma.SOMAError) as error:
        raise ValueError(f"`sources`: there is no SOMA experiment at {location}: {error}.") from error


class SomaSource(CountSource):
    """A SOMA experiment, alone or in a Census. The filter is SOMA's own and runs in the storage engine."""

    _MEASUREMENT = "RNA"

    @cached_property
    def _root(self) -> Any:
        return open_soma(self.spec.location, self.spec.census_version)

    @cached_property
    def _experiment(self) -> Any:
        experiment = self._root["census_data"][self.spec.organism] if self.spec.organism else self._root
        if "ms" not in experiment or self._MEASUREMENT not in experiment.ms:
            found = sorted(experiment.ms) if "ms" in experiment else sorted(experiment)
            raise ValueError(
                f"`sources`: {self.spec.location} has {found}, but not the measurement {self._MEASUREMENT} of the "
                "CELLxGENE Census. Write the experiment with `measurement_name='RNA'`."
            )
        return experiment

    @property
    def num_cells(self) -> int:
        return self._experiment.obs.count

    @cached_property
    def var(self) -> pd.DataFrame:
        var = self._experiment.ms[self._MEASUREMENT].var.read().concat().to_pandas().sort_values("soma_joinid")
        name = next(column for column in ("feature_id", "var_id", "feature_name") if column in var)
        return var.set_index(pd.Index(var[name].astype(str), name=None)).drop(columns="soma_joinid")

    @property
    def _layer(self) -> Any:
        layers = self._experiment.ms[self._MEASUREMENT].X
        name = self.spec.layer or "raw"
        if name not in layers:
            raise ValueError(f"`layer`: {self.spec.location} has no X[{name!r}]. It offers: {', '.join(layers)}.")
        return layers[name]

    @cached_property
    def _datasets(self) -> pd.DataFrame | None:
        """The Census's own table of datasets, indexed by `dataset_id`."""
        if self.spec.organism is None or "datasets" not in self._root["census_info"]:
            return None
        return self._root["census_info"]["datasets"].read().concat().to_pandas().set_index("dataset_id")

    def obs_blocks(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        import tiledbsoma

        obs = self._experiment.obs
        offered = set(obs.schema.names)
        wanted = [name for name in dict.fromkeys(["soma_joinid", *OBS_COLUMNS, *columns]) if name in offered]
        try:
            tables = obs.read(column_names=wanted, value_filter=self.spec.filter, result_order="row-major")
            yield from map(self._prepare, tables)
        except (tiledbsoma.SOMAError, ValueError) as error:
            raise ValueError(
                f"`filter`: {self.spec.filter!r} cannot be asked of {self.spec.location}: {error}. Its columns: "
                f"{', '.join(sorted(offered))}."
            ) from error

    def _prepare(self, table: Any) -> pd.DataFrame:
        block = table.to_pandas().rename(columns={"soma_joinid": "row"})
        if self._datasets is not None and "study" not in block and "collection_id" in self._datasets:
            block["study"] = block["dataset_id"].astype(object).map(self._datasets["collection_id"])
        if self.spec.organism is not None and "organism" not in block:
            block["organism"] = self.spec.organism.capitalize().replace("_", " ")
        block["cell_id"] = self.spec.name + ":" + block["row"].astype(str)
        return block

    def read(self, rows: np.ndarray) -> sp.csr_matrix:
        table = self._layer.read((rows,)).tables().concat()
        place = np.searchsorted(rows, table["soma_dim_0"].to_numpy())
        values = table["soma_data"].to_numpy()
        return sp.csr_matrix((values, (place, table["soma_dim_1"].to_numpy())), shape=(len(rows), len(self.var)))

    def fingerprint(self) -> tuple[str, int]:
        if self.spec.location == CENSUS:
            return f"census {self.spec.census_version}", 0  # a release never changes
        path = Path(self.spec.location.removeprefix("file://"))
        if path.is_dir():
            return sha256_of(path), size_of(path)
        state = {"uri": self._experiment.uri, "timestamp": self._experiment.tiledb_timestamp_ms}
        return json.dumps(state, sort_keys=True), 0

    def notes(self) -> dict[str, Any]:
        if self._datasets is None or "citation" not in self._datasets:
            return {}
        return {"citations": self._datasets["citation"].astype(str).sort_index().to_dict()}
