"""Cells on disk to model-ready batches: cells per second of one process, against other loaders.

    python benchmarks/loading.py [--cells 100000] [--seconds 30]   # peers: pip install -r benchmarks/requirements.txt
    python benchmarks/loading.py --memory                          # resident memory while 1,000,000 cells stream by

Every loader makes the same batches of about 64 cells: gene ids, log1p values and limits of packed cells, as tensors.
Each peer has two rows: "per cell", as its documentation shows (a function of one cell, or of a dense batch), and
"vectorised", with this package's encoder on whole batches. All have the same cells in the same random order, each in
the format it is made for. Each is measured twice: "cold", its files dropped from the page cache, and "warm", right
after that. A loader runs through all cells, or for so many seconds. No loader gets worker processes; Arrow, HDF5 and
TileDB keep their own threads. Seconds of the processor are given beside those of the clock, since the machine may have
other work. `annbatch` needs Python 3.12 and is left out.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"

import anndata
import datasets
import numpy as np
import scipy.sparse as sp
import torch
from tqdm.auto import tqdm

from scmmgpt import ScMMGPTFeatureExtractor
from scmmgpt.data import CellBatch, CellStream, ShardSource

sys.path.insert(0, str(Path(__file__).parent))
from cells import NUM_DATASETS, make_cells, write_shards, write_soma

RESULTS = Path(__file__).parent / "results"
BATCH = 64
Batches = Iterator[tuple[dict[str, torch.Tensor], Any]]  # tensors, and names of cells or data sets


def pack(
    extractor: ScMMGPTFeatureExtractor, indptr: np.ndarray, gene_ids: np.ndarray, counts: np.ndarray
) -> dict[str, torch.Tensor]:
    """A block of cells to tensors, all cells at once."""
    limits, token_ids, values = extractor.encode(indptr.astype(np.int64), gene_ids, counts)
    return {
        "cell_gene_ids": torch.from_numpy(token_ids),
        "cell_values": torch.from_numpy(values),
        "cell_cu_seqlens": torch.from_numpy(limits.astype(np.int32)),
    }


def tokenise(extractor: ScMMGPTFeatureExtractor, gene_ids: np.ndarray, counts: np.ndarray) -> dict[str, torch.Tensor]:
    """One cell, as a function for `map` or `__getitem__` does it."""
    values = np.log1p(1e4 * counts / counts.sum()).astype(np.float32)
    if len(values) > extractor.max_genes - 1:
        kept = np.sort(np.argsort(-values, kind="stable")[: extractor.max_genes - 1])
        gene_ids, values = gene_ids[kept], values[kept]
    return {
        "ids": torch.from_numpy(np.concatenate([[extractor.cls_token_id], gene_ids])),
        "values": torch.from_numpy(np.concatenate([np.array([extractor.pad_value], np.float32), values])),
    }


def join(cells: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Tokenised cells to one batch."""
    lengths = torch.tensor([0, *(len(cell["ids"]) for cell in cells)])
    return {
        "cell_gene_ids": torch.cat([cell["ids"] for cell in cells]),
        "cell_values": torch.cat([cell["values"] for cell in cells]),
        "cell_cu_seqlens": lengths.cumsum(0).int(),
    }


def pack_rows(extractor: ScMMGPTFeatureExtractor, matrix: sp.csr_matrix, per_cell: bool) -> dict[str, torch.Tensor]:
    """Rows of a count matrix to a batch, all at once or one by one."""
    if not per_cell:
        return pack(extractor, matrix.indptr, matrix.indices, matrix.data)
    rows = [slice(*matrix.indptr[i : i + 2]) for i in range(matrix.shape[0])]
    return join([tokenise(extractor, matrix.indices[row].astype(np.int64), matrix.data[row]) for row in rows])


def scmmgpt_batches(folder: Path, extractor: ScMMGPTFeatureExtractor) -> Batches:
    """This package."""

    def collate(batch: CellBatch) -> tuple[dict[str, torch.Tensor], np.ndarray]:
        cells = batch.cells
        return pack(extractor, cells.indptr, cells.gene_ids, cells.counts), cells.cell_ids

    max_tokens = BATCH * 1001
    yield from CellStream(ShardSource(folder / "shards"), max_tokens, extractor.max_genes, collate)


def datasets_batches(folder: Path, extractor: ScMMGPTFeatureExtractor, per_cell: bool) -> Batches:
    """Hugging Face `datasets`: the same Parquet files as a stream."""
    columns = ["gene_ids", "counts", "dataset_id"]
    stream = datasets.load_dataset(
        "parquet", data_files=f"{folder}/shards/train/*.parquet", streaming=True, split="train", columns=columns
    )
    if per_cell:
        stream = stream.shuffle(seed=0, buffer_size=10_000)
        stream = stream.map(
            lambda cell: tokenise(extractor, np.array(cell["gene_ids"]), np.array(cell["counts"])),
            remove_columns=["gene_ids", "counts"],
        )
        cells = []
        for cell in stream:
            cells.append(cell)
            if len(cells) == BATCH:
                yield join(cells), [cell["dataset_id"] for cell in cells]
                cells = []
        return
    # A buffer would take cells one by one; the shards alone are shuffled, since the cells in them are.
    for batch in stream.shuffle(seed=0, buffer_size=1).with_format("arrow").iter(batch_size=BATCH):
        genes, counts = (batch[name].combine_chunks() for name in ("gene_ids", "counts"))
        limits = genes.offsets.to_numpy()
        entries = slice(limits[0], limits[-1])
        yield (
            pack(extractor, limits - limits[0], genes.values.to_numpy()[entries], counts.values.to_numpy()[entries]),
            batch["dataset_id"].to_pylist(),
        )


def scdataset_batches(folder: Path, extractor: ScMMGPTFeatureExtractor, per_cell: bool) -> Batches:
    """scDataset on a backed AnnData, with the block size and fetch factor of its paper."""
    from scdataset import BlockShuffling, scDataset
    from torch.utils.data import DataLoader

    adata = anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    dataset = scDataset(
        adata,
        BlockShuffling(block_size=16),
        batch_size=BATCH,
        fetch_factor=64,
        fetch_callback=lambda collection, indices: collection[np.sort(indices)].to_memory(),
        seed=0,
    )
    for batch in DataLoader(dataset, batch_size=None):
        matrix = sp.csr_matrix(batch.X)
        yield pack_rows(extractor, matrix, per_cell), batch.obs["dataset_id"].tolist()


def soma_batches(folder: Path, extractor: ScMMGPTFeatureExtractor, per_cell: bool) -> Batches:
    """tiledbsoma-ml on a SOMA experiment; dense batches, as its documentation shows, in the row "per cell"."""
    import tiledbsoma
    from tiledbsoma_ml import ExperimentDataset, experiment_dataloader

    with (
        tiledbsoma.Experiment.open(str(folder / "soma")) as experiment,
        experiment.axis_query(measurement_name="RNA") as query,
    ):
        dataset = ExperimentDataset(
            query,
            layer_name="raw",
            obs_column_names=["dataset_id"],
            batch_size=BATCH,
            io_batch_size=16_384,
            seed=0,
            return_sparse_X=not per_cell,
        )
        for matrix, obs in experiment_dataloader(dataset):
            yield pack_rows(extractor, sp.csr_matrix(matrix), per_cell), obs["dataset_id"].tolist()


def annloader_batches(folder: Path, extractor: ScMMGPTFeatureExtractor, per_cell: bool) -> Batches:
    """anndata's AnnLoader on a backed AnnData; its batches are dense."""
    from anndata.experimental import AnnLoader

    adata = anndata.read_h5ad(folder / "cells.h5ad", backed="r")
    for batch in AnnLoader(adata, batch_size=BATCH, shuffle=True):
        yield pack_rows(extractor, sp.csr_matrix(batch.X.numpy()), per_cell), batch.obs["dataset_id"].tolist()


LOADERS: dict[str, tuple[str, Callable[..., Batches]]] = {
    "datasets": ("shards", datasets_batches),
    "scdataset": ("cells.h5ad", scdataset_batches),
    "tiledbsoma-ml": ("soma", soma_batches),
    "AnnLoader": ("cells.h5ad", annloader_batches),
}
PACKAGES = ("numpy", "pyarrow", "datasets", "scdataset", "tiledbsoma", "tiledbsoma-ml", "anndata", "h5py")


def entropy(labels: list[str]) -> float:
    """Of the data sets in a batch, in bits."""
    shares = np.unique(labels, return_counts=True)[1] / len(labels)
    return float(-(shares * np.log2(shares)).sum())


def measure(batches: Batches, seconds: float, dataset_of: dict[str, str]) -> dict[str, float]:
    """Cells and tokens per second until the end or for some seconds, the first batch and all set-up included."""
    cells = tokens = 0
    names = []
    start, processor = time.perf_counter(), time.process_time()
    for batch, batch_names in batches:
        cells += len(batch["cell_cu_seqlens"]) - 1
        tokens += len(batch["cell_gene_ids"])
        names.append(batch_names)
        if time.perf_counter() - start > seconds:
            break
    took = time.perf_counter() - start
    # The last batches of a window or of the data are small.
    full = [[dataset_of.get(name, name) for name in some] for some in names if len(some) > BATCH // 2]
    return {
        "cells_per_second": cells / took,
        "cells_per_processor_second": cells / (time.process_time() - processor),
        "tokens_per_second": tokens / took,
        "batches_per_second": len(names) / took,
        "entropy_bits": float(np.mean([entropy(labels) for labels in full])),
        "cells": cells,
        "seconds": took,
    }


def compare(folder: Path, num_cells: int, num_genes: int, seconds: float) -> dict[str, Any]:
    """All loaders on the same cells."""
    versions = {name: version(name) for name in PACKAGES}  # a peer that is not there is missed at once
    adata = make_cells(num_cells, num_genes)
    write_shards(adata, folder / "shards")
    adata.write_h5ad(folder / "cells.h5ad")
    write_soma(adata, folder / "soma")
    dataset_of = dict(zip(adata.obs_names, adata.obs["dataset_id"].astype(str), strict=True))
    mean_genes = adata.X.nnz / adata.n_obs
    del adata
    extractor = ScMMGPTFeatureExtractor.from_pretrained(folder / "shards" / "processor")
    runs: dict[str, tuple[str, Callable[[], Batches]]] = {}
    runs["scmmgpt"] = ("shards", lambda: scmmgpt_batches(folder, extractor))
    for name, (place, loader) in LOADERS.items():
        for way in ("vectorised", "per cell"):
            runs[f"{name}, {way}"] = (place, partial(loader, folder, extractor, way == "per cell"))
    runs["scmmgpt, again"] = runs["scmmgpt"]
    rows = {}
    for name, (place, run) in tqdm(runs.items(), desc="loaders"):
        drop_from_cache(folder / place)
        rows[name] = {cache: measure(run(), seconds, dataset_of) for cache in ("cold", "warm")}
    sizes = {
        name: sum(file.stat().st_size for file in files_of(folder / name)) / num_cells
        for name in ("shards", "cells.h5ad", "soma")
    }
    return {
        "cells": num_cells,
        "genes": num_genes,
        "mean_expressed_genes": mean_genes,
        "most_entropy_bits": float(np.log2(NUM_DATASETS)),
        "bytes_per_cell": sizes,
        "rows": rows,
        "cpu": platform.processor() or platform.machine(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }


def files_of(path: Path) -> list[Path]:
    """A file, or all files in a folder."""
    return [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]


def drop_from_cache(path: Path) -> None:
    """Takes the files of a data set out of the page cache."""
    for file in files_of(path):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def table(result: dict[str, Any]) -> str:
    """Markdown."""
    rows = result["rows"]
    best = {
        cache: max(row[cache]["cells_per_second"] for name, row in rows.items() if not name.startswith("scmmgpt"))
        for cache in ("cold", "warm")
    }
    lines = [
        f"{result['cells']:,} cells of {result['mean_expressed_genes']:,.0f} expressed genes of {result['genes']:,}; "
        f"one process; entropy of data sets in a batch, at most {result['most_entropy_bits']:.2f} bits; load of the "
        f"machine {result['load']:.1f} on {os.cpu_count()} cores.",
        "",
        "| loader | cells/s cold | of the best peer | cells/s warm | of the best peer | per processor second (warm) | "
        "batches/s (warm) | entropy (bits) |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        cold, warm = row["cold"]["cells_per_second"], row["warm"]["cells_per_second"]
        lines.append(
            f"| {name} | {cold:,.0f} | {cold / best['cold']:.2f} | {warm:,.0f} | {warm / best['warm']:.2f} | "
            f"{row['warm']['cells_per_processor_second']:,.0f} | {row['warm']['batches_per_second']:,.1f} | "
            f"{row['warm']['entropy_bits']:.2f} |"
        )
    sizes = ", ".join(f"{name} {size:,.0f}" for name, size in result["bytes_per_cell"].items())
    return "\n".join([*lines, "", f"Bytes per cell on disk: {sizes}."])


def stream_memory(folder: Path, num_cells: int, num_genes: int, copies: int) -> dict[str, float]:
    """Peak resident memory of a new process in which `copies` links to the same shards stream by."""
    write_shards(make_cells(num_cells, num_genes), folder / "shards")
    shards = folder / "shards"
    manifest = json.loads((shards / "manifest.json").read_text())
    linked = {}
    for name, entry in manifest["shards"].items():
        for copy in range(copies):
            linked[name.replace(".parquet", f"-{copy}.parquet")] = entry
            os.link(shards / name, shards / name.replace(".parquet", f"-{copy}.parquet"))
    (shards / "manifest.json").write_text(json.dumps({"shards": linked}))
    command = [sys.executable, __file__, "--stream", str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def peak_memory() -> int:
    """Most resident memory of this process so far, in KiB; `getrusage` would tell of the process that started it."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


def stream(folder: Path) -> dict[str, float]:
    """Streams all cells and tells the peak resident memory of this process."""
    extractor = ScMMGPTFeatureExtractor.from_pretrained(folder / "shards" / "processor")
    before = peak_memory()
    start, cells = time.perf_counter(), 0
    for batch, _ in scmmgpt_batches(folder, extractor):
        cells += len(batch["cell_cu_seqlens"]) - 1
    after = peak_memory()
    took = time.perf_counter() - start
    return {
        "cells": cells,
        "cells_per_second": cells / took,
        "max_rss_gib": after / 2**20,
        "max_rss_gib_before_streaming": before / 2**20,
    }


def main() -> None:
    """Runs the comparison, or the measurement of memory."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=30_000)
    parser.add_argument("--seconds", type=float, default=30.0, help="at most, for each loader")
    parser.add_argument("--memory", action="store_true", help="measure memory instead")
    parser.add_argument("--stream", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stream:
        print(json.dumps(stream(options.stream)))
        return
    RESULTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        if options.memory:
            result = stream_memory(Path(folder), 100_000, options.genes, copies=10)
            text = " | ".join(f"{name} {value:,.2f}" for name, value in result.items())
        else:
            result = compare(Path(folder), options.cells, options.genes, options.seconds)
            text = table(result)
    name = "streaming_memory" if options.memory else "loading"
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (RESULTS / f"{name}.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
