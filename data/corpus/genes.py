"""The gene vocabulary of a corpus, and the genes of each source in it."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from ...feature_extraction_scmmgpt import ScMMGPTFeatureExtractor
from .files import write_json
from .find import open_source
from .layout import PROCESSOR, matches_path
from .sources import SourceSpec

_EXAMPLES = 10


def union_of_genes(genes: Iterable[tuple[list[str], list[str]]]) -> ScMMGPTFeatureExtractor:
    """
    A vocabulary of all genes of some sources, in the order in which they come.

    Args:
        genes: symbols and Ensembl ids (`""` where there is none) of each source. A gene is known by its Ensembl id, or
            its symbol where there is no id; of two symbols of one id the first is taken.
    """
    id_of: dict[str, str] = {}
    known: set[str] = set()
    for symbols, ensembl_ids in genes:
        for symbol, ensembl_id in zip(symbols, ensembl_ids, strict=True):
            if symbol in id_of:
                if not id_of[symbol] and ensembl_id not in known:
                    id_of[symbol] = ensembl_id
            elif ensembl_id not in known:
                id_of[symbol] = ensembl_id
            else:
                continue
            known |= {id_of[symbol]} - {""}
    return ScMMGPTFeatureExtractor.from_genes(list(id_of), list(id_of.values()))


def match_source(folder: Path, number: int, spec: SourceSpec) -> int:
    """Writes which genes of a source are in the vocabulary, or why the source is refused, to the work folder."""
    source = open_source(spec)
    extractor = ScMMGPTFeatureExtractor.from_pretrained(folder / PROCESSOR)
    one_of_each = sp.csr_matrix(np.ones((1, len(source.var)), dtype=np.float32))
    try:
        aligned = extractor.align(source.as_anndata(one_of_each, ["one"]))
        found = {"refused": None, "panel": aligned.panel.tolist(), "report": _summary(asdict(aligned.report))}
    except ValueError as error:
        found = {"refused": f"{spec.location}: {error}"}
    write_json(matches_path(folder, number), found)
    return 1


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    """A report whose long lists are cut to their length and some examples."""
    return {
        name: {"number": len(value), "examples": list(value)[:_EXAMPLES]} if isinstance(value, (list, dict)) else value
        for name, value in report.items()
    }
