"""What went into a corpus and what came out: counts that add up, hashes, splits, licences."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..ontology import Ontology
from .files import read_json, sha256_of, whole_file
from .layout import (
    DROP_REASONS,
    DROPPED,
    FACTS,
    FORMAT,
    PANELS,
    PROCESSOR,
    chunk_path,
    shard_name,
    shard_record_path,
)
from .plan import Plan, PlannedSource
from .tasks import unshipped

_PACKAGES = ("scmmgpt", "anndata", "h5py", "numpy", "pandas", "pyarrow", "scipy", "transformers")
_LICENCE_FIELDS = ("license", "licence", "citation")
_NOT_REPORTED = ("symbols", "ensembl_ids", "cells", "kept", "datasets", "refused", "by_columns", "notes")


def package_versions() -> dict[str, str]:
    """The packages that decide the bytes of a corpus."""
    return {name: version(name) for name in _PACKAGES}


def make_manifest(folder: Path, begun: dict[str, Any], plan: Plan, refused: dict[str, str]) -> dict[str, Any]:
    """
    Writes `dropped.parquet` and gathers the manifest of a corpus whose shards are there.

    Args:
        folder (`Path`): the corpus.
        begun (`dict`): settings, sources and package versions, as they were when the build began.
        plan ([`Plan`]): what is written where.
        refused (`dict[str, str]`): name of each source that is left out, and why.

    Raises:
        AssertionError: a cell was lost or doubled.
    """
    tallies = _write_dropped(folder, plan.sources)
    shards = {
        shard_name(split, shard): read_json(shard_record_path(folder, split, shard)) for split, shard in plan.shards
    }
    cells_out = sum(shard["cells"] for shard in shards.values())
    taken = sum(source.survey["kept"] - sum(tallies[source.spec.name].values()) for source in plan.sources)
    if cells_out != taken:
        raise AssertionError(
            f"{taken} cells were taken from the sources, but {cells_out} are in the shards of {folder}"
        )
    cells_of = dict.fromkeys(plan.splits["groups"], 0)
    for split, shard in plan.shards:
        cells_of[split] += shards[shard_name(split, shard)]["cells"]
    others = [FACTS, PANELS, DROPPED, *(f"{PROCESSOR}/{path.name}" for path in sorted((folder / PROCESSOR).iterdir()))]
    return {
        "format": FORMAT,
        **begun,
        "ontologies": Ontology().version,
        "cells": {
            "in": sum(source.survey["cells"] for source in plan.sources),
            "filtered out": sum(source.survey["cells"] - source.survey["kept"] for source in plan.sources),
            **{reason: sum(tally[reason] for tally in tallies.values()) for reason in DROP_REASONS.values()},
            "out": cells_out,
        },
        "entries": sum(shard["entries"] for shard in shards.values()),
        "source_reports": [_report(source, tallies[source.spec.name], begun) for source in plan.sources],
        "refused": refused,
        "splits": plan.splits | {"cells": cells_of},
        "num_facts": plan.num_facts,
        "num_panels": plan.num_panels,
        "files": {
            name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_of(folder / name)} for name in others
        },
        "shards": shards,
    }


def _report(source: PlannedSource, tally: dict[str, int], begun: dict[str, Any]) -> dict[str, Any]:
    survey, notes = source.survey, source.survey["notes"]
    return {
        "name": source.spec.name,
        "cells": {
            "in": survey["cells"],
            "filtered out": survey["cells"] - survey["kept"],
            **tally,
            "out": survey["kept"] - sum(tally.values()),
        },
        **{name: value for name, value in survey.items() if name not in _NOT_REPORTED},
        "licence": {name: notes[name] for name in _LICENCE_FIELDS if name in notes}
        or begun["settings"]["licence"]
        or "not stated",
        "notes": notes,
        "panel_id": source.panel_id,
        "genes": source.match["report"],
    }


def _write_dropped(folder: Path, sources: list[PlannedSource]) -> dict[str, dict[str, int]]:
    """Lists the cells that no shard has, and counts them by source and reason."""
    schema = pa.schema([("cell_id", pa.string()), ("source", pa.string()), ("reason", pa.string())])
    tallies = {source.spec.name: dict.fromkeys(DROP_REASONS.values(), 0) for source in sources}
    with whole_file(folder / DROPPED) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for source in sources:
            for chunk in source.chunks:
                dropped = unshipped(chunk_path(folder, source.number, chunk))
                reasons = [DROP_REASONS[code] for code in dropped["destination"].to_pylist()]
                for reason, number in zip(*np.unique(reasons, return_counts=True), strict=True):
                    tallies[source.spec.name][str(reason)] += int(number)
                if reasons:
                    names = [source.spec.name] * len(reasons)
                    writer.write_table(pa.table([dropped["cell_id"], names, reasons], schema=schema))
    return tallies
