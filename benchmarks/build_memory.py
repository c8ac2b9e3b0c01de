"""Memory, speed and storage of `scmmgpt data build` on a large `.h5ad`, made by resampling real cells.

    python benchmarks/build_memory.py --data $SCMMGPT_DATA --cells 1000000 --workers 1

Prints a table and writes benchmarks/results/build_memory.json. The file and the corpus lie in a temporary folder
(about 15 kB for each cell) and are removed. Memory is the highest sum of the resident sizes of all processes of the
build, looked at ten times a second.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import anndata
import h5py
import numpy as np
import pandas as pd
import psutil
import scipy.sparse as sp
from anndata.io import write_elem

RESULTS = Path(__file__).parent / "results" / "build_memory.json"
FILES = (
    "pbmc3k_10x",
    "pbmc_frozenA_unlabelled",
    "bone_marrow_accordion_unlabelled",
    "pbmc_kang_ifnb2800",
    "pbmc_eccite_citefuse500",
)
OBS = ("cell_type", "tissue", "disease", "assay", "organism", "donor_id", "dataset_id", "study")
CELLS_AT_A_TIME = 20_000
PADDED_BYTES = 2048 * 12  # a cell padded to 2,048 genes, int64 ids and float32 values: 664 GB for 27 million


def main() -> None:
    """Makes the file, builds, measures and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of real studies, with h5ad/ in it")
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        source, corpus = Path(folder) / "cells.h5ad", Path(folder) / "corpus"
        entries = resample(options.data / "h5ad", source, options.cells)
        result = measure(source, corpus, options.workers)
        manifest = json.loads((corpus / "manifest.json").read_text())
        result |= {
            "cells": options.cells,
            "workers": options.workers,
            "genes_per_cell": entries / options.cells,
            "source_gb": source.stat().st_size / 1e9,
            "corpus_gb": sum(path.stat().st_size for path in corpus.rglob("*") if path.is_file()) / 1e9,
        }
        assert manifest["entries"] == entries
        assert manifest["cells"]["out"] == options.cells
    report(result)


def resample(folder: Path, path: Path, num_cells: int) -> int:
    """Writes an `.h5ad` (compressed rows) of cells drawn with replacement, block by block, and returns its entries."""
    real = [anndata.read_h5ad(folder / f"{name}.h5ad") for name in FILES]
    cells = anndata.concat(real, join="outer", index_unique="-")
    counts = sp.csr_matrix(cells.X, dtype=np.float32)
    counts.eliminate_zeros()
    drawn = np.random.default_rng(0).integers(0, cells.n_obs, num_cells)
    obs = cells.obs[[name for name in OBS if name in cells.obs]].iloc[drawn].astype("category")
    obs.index = pd.RangeIndex(num_cells).astype(str)
    lengths = np.diff(counts.indptr)[drawn]
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    with h5py.File(path, "w") as file:
        write_elem(file, "obs", obs)
        write_elem(file, "var", pd.DataFrame(index=cells.var_names))
        matrix = file.create_group("X")
        matrix.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        matrix.attrs["shape"] = np.array([num_cells, cells.n_vars])
        matrix["indptr"] = indptr
        columns = matrix.create_dataset("indices", (indptr[-1],), "i4", chunks=(1 << 18,))
        values = matrix.create_dataset("data", (indptr[-1],), "f4", chunks=(1 << 18,))
        for start in range(0, num_cells, CELLS_AT_A_TIME):
            block = counts[drawn[start : start + CELLS_AT_A_TIME]]
            place = slice(indptr[start], indptr[start] + block.nnz)
            columns[place], values[place] = block.indices, block.data
    return int(indptr[-1])


def measure(source: Path, corpus: Path, workers: int) -> dict[str, float]:
    """Builds in a process of its own, and returns seconds and the highest memory of it and its workers."""
    command = [sys.executable, "-m", "scmmgpt.cli", "data", "build", str(source), str(corpus), "--split-key", "study"]
    command += ["--workers", str(workers)]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    peak = one = 0

    def watch() -> None:
        nonlocal peak, one
        tree = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                sizes = [each.memory_info().rss for each in (tree, *tree.children(recursive=True))]
            except psutil.NoSuchProcess:
                continue
            peak, one = max(peak, sum(sizes)), max(one, *sizes)
            time.sleep(0.1)

    thread = threading.Thread(target=watch)
    thread.start()
    assert process.wait() == 0, "the build failed"
    thread.join()
    return {"seconds": time.perf_counter() - start, "peak_gib": peak / 2**30, "largest_process_gib": one / 2**30}


def report(result: dict[str, float]) -> None:
    """Prints the tables and adds the result to the file of results."""
    per_cell = result["corpus_gb"] * 1e9 / result["cells"]
    per_entry = per_cell / result["genes_per_cell"]
    result |= {"bytes_per_cell": per_cell, "bytes_per_entry": per_entry}
    print("\n| cells | genes/cell | workers | peak memory | largest process | cells/s | bytes/cell | bytes/entry |")
    print("|---|---|---|---|---|---|---|---|")
    values = (
        f"{result['cells']:,}",
        f"{result['genes_per_cell']:.0f}",
        f"{result['workers']}",
        f"{result['peak_gib']:.2f} GiB",
        f"{result['largest_process_gib']:.2f} GiB",
        f"{result['cells'] / result['seconds']:,.0f}",
        f"{per_cell:,.0f}",
        f"{per_entry:.2f}",
    )
    print(f"| {' | '.join(values)} |")
    print("\n| corpus | 27 million cells | 100 million cells |\n|---|---|---|")
    for genes in (result["genes_per_cell"], 1000, 2000):
        size = per_entry * genes / 1e3  # GB for each million cells
        print(f"| {genes:.0f} genes/cell | {27 * size:,.0f} GB | {100 * size:,.0f} GB |")
    print(f"| padded layout | {27e6 * PADDED_BYTES / 1e9:,.0f} GB | {100e6 * PADDED_BYTES / 1e9:,.0f} GB |")
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps([*known, result], indent=1) + "\n")


if __name__ == "__main__":
    main()
