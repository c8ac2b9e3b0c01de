"""Cells from `.h5ad` files, and raw counts from log-normalised ones.

Must not import the model: what leaves here is an `AnnData` with counts in `X`.
"""

from os import PathLike
from pathlib import Path

import anndata
import h5py
import numpy as np
import scipy.sparse as sp

from ..genes_scmmgpt import ENSEMBL_ID, NAME_COLUMNS
from .ontology import Ontology

# Values kept with three decimals or in float16 are off by up to two parts in a thousand.
_RELATIVE_TOLERANCE = 5e-3
# Below this count the tolerance is far from one half, so the nearest integer is certain.
_CERTAIN_COUNT = 50
_ID_COLUMNS = tuple(name for name in NAME_COLUMNS if name.endswith(("_id", "_ids")))
_SYMBOL_COLUMNS = tuple(name for name in NAME_COLUMNS if name not in _ID_COLUMNS)


def read_cells(path: str | PathLike) -> anndata.AnnData:
    """
    Reads an `.h5ad` file.

    Args:
        path (`str` or `PathLike`): The file.

    Returns:
        `AnnData`: Everything in the file, in memory.

    Raises:
        ValueError: The file is missing, is no HDF5 file, or holds no AnnData.
    """
    return anndata.read_h5ad(check_h5ad(path))


def check_h5ad(path: str | PathLike) -> Path:
    """The path of an `.h5ad` file; raises a `ValueError` when it is missing, no HDF5 file, or holds no AnnData."""
    path = Path(path)
    if not path.is_file():
        found = "a folder" if path.is_dir() else "nothing"
        raise ValueError(f"`path` is '{path}', where there is {found}; pass the path of an .h5ad file.")
    if not h5py.is_hdf5(path):
        raise ValueError(f"`path` is '{path}', which is not an HDF5 file; write your cells with `adata.write_h5ad`.")
    with h5py.File(path) as file:
        groups = sorted(file)
    if not {"obs", "var"} <= set(groups):
        raise ValueError(
            f"`path` is '{path}', an HDF5 file of {groups} without `obs` and `var`; convert it to AnnData first "
            "(`scanpy.read_10x_h5` reads the files of Cell Ranger)."
        )
    return path


def take_counts(adata: anndata.AnnData, layer: str | None) -> anndata.AnnData:
    """
    Puts the counts of a layer into `X`.

    Args:
        adata (`AnnData`): changed in place, unless the counts are in `raw`.
        layer (`str`, *optional*): A layer, or `raw` for `adata.raw` with its genes; `X` when absent.

    Returns:
        `AnnData`: `adata`, or that of `raw`.

    Raises:
        ValueError: There is no such layer.
    """
    if layer is None:
        return adata
    if layer == "raw" and adata.raw is not None:
        return adata.raw.to_adata()
    if layer not in adata.layers:
        found = [*adata.layers, *(["raw"] if adata.raw is not None else [])]
        raise ValueError(
            f"`layer` is {layer!r}, but the file has {found or 'none'}; pass one of these, or none for `X`."
        )
    adata.X = adata.layers[layer]
    return adata


def name_genes(adata: anndata.AnnData) -> anndata.AnnData:
    """
    Puts gene symbols in `var_names`, unique, and Ensembl ids in `var["ensembl_id"]`, wherever the file keeps them.

    CELLxGENE files name genes by Ensembl id and keep symbols in `feature_name`; 10x files have it the other way round.
    What `var["feature_types"]` says is no gene, such as the surface proteins of CITE-seq, is left out.

    Args:
        adata (`AnnData`): changed in place, unless features are left out.

    Returns:
        `AnnData`: `adata`, or a copy with fewer features.
    """
    if "feature_types" in adata.var:
        is_gene = (adata.var["feature_types"] == "Gene Expression").to_numpy()
        if is_gene.any() and not is_gene.all():
            adata = adata[:, is_gene].copy()
    names = adata.var_names.astype(str)
    is_ensembl = names.str.match(ENSEMBL_ID)
    ids = _column(adata, _ID_COLUMNS, np.full(adata.n_vars, ""))
    adata.var["ensembl_id"] = np.where(is_ensembl, names, ids)
    if 2 * is_ensembl.sum() > adata.n_vars:
        adata.var_names = _column(adata, _SYMBOL_COLUMNS, names)
    adata.var_names_make_unique()
    return adata


def _column(adata: anndata.AnnData, columns: tuple[str, ...], default: np.ndarray) -> np.ndarray:
    """The first of several columns of `var` that there is, as strings; the default where it has no value, too."""
    column = next((adata.var[name] for name in columns if name in adata.var), None)
    if column is None:
        return np.asarray(default, dtype=str)
    return np.where(column.isna(), default, column.astype(str))


def recover_counts(adata: anndata.AnnData) -> anndata.AnnData:
    """
    Raw counts of cells that were scaled to a common total and then taken to log(1 + x).

    A cell's smallest value above zero stands for one transcript, so `expm1(x)` over its smallest is the count.
    Counts are left as they are. Scaled data (negative values) are taken from `adata.raw`.

    Args:
        adata (`AnnData`): Cells with counts or log-normalised values in `X`, or scaled ones in `X` and either of the
            two in `raw`.

    Returns:
        `AnnData`: The same cells with float32 counts (CSR) in `X`, the genes of the matrix used, and `obs`.

    Raises:
        ValueError: The values are no counts, do not come from counts, or are not finite.
    """
    source = adata
    matrix = _as_csr(adata.X)
    if matrix.nnz and matrix.data.min() < 0:
        if adata.raw is None:
            raise ValueError(
                f"`adata.X` holds negative values (least {matrix.data.min():.4g}) and `adata.raw` is empty; pass raw "
                "counts, or log-normalised values before scaling."
            )
        source = adata.raw
        matrix = _as_csr(source.X)
    if not np.isfinite(matrix.data).all():
        raise ValueError("`adata` holds NaN or infinite values; remove or fill them before training.")
    if matrix.nnz and matrix.data.min() < 0:
        raise ValueError(
            f"`adata.raw` holds negative values (least {matrix.data.min():.4g}); pass raw or log-normalised counts."
        )
    if not np.array_equal(matrix.data, np.rint(matrix.data)):
        matrix.data = _unlog(matrix, adata.obs_names.to_numpy())
    counts = matrix.astype(np.float32)
    return anndata.AnnData(X=counts, obs=adata.obs.copy(), var=source.var.copy())


def demo_cells() -> anndata.AnnData:
    """
    The 700 blood cells that come with scanpy, as counts, with what is known of them in `obs`.

    They are of the 68,579 fresh peripheral blood mononuclear cells of healthy donor A in Zheng et al. 2017
    (https://doi.org/10.1038/ncomms14049), captured with the first version of the 10x chemistry (their barcodes have
    its 14 bases); 765 variable genes.

    Returns:
        `AnnData`: Counts, with `cell_type` (the authors' label), `cell_type_ontology_term_id`, `tissue`, `disease`,
        `assay`, `organism` and `donor_id`.

    Raises:
        ImportError: scanpy is not installed.
    """
    try:
        import scanpy  # seconds to import, and only the demonstration needs it
    except ModuleNotFoundError as error:
        raise ImportError(
            f"The demonstration cells come with scanpy: pip install 'scmmgpt[demo]' ({error})."
        ) from error

    cells = recover_counts(scanpy.datasets.pbmc68k_reduced())
    ontology = Ontology()
    labels = cells.obs["bulk_labels"].astype(str)
    cells.obs["cell_type"] = labels
    cells.obs["cell_type_ontology_term_id"] = labels.map({x: ontology.resolve(x) for x in labels.unique()})
    cells.obs["tissue"] = "blood"
    cells.obs["disease"] = "normal"
    cells.obs["assay"] = "10x 3' v1"
    cells.obs["organism"] = "Homo sapiens"
    cells.obs["donor_id"] = "zheng2017_donor_A"
    return cells


def _as_csr(matrix: object) -> sp.csr_matrix:
    """Returns a float64 copy in CSR form without stored zeros."""
    if matrix is None:
        raise ValueError("`adata.X` is empty; pass cells with an expression matrix in `X`.")
    if hasattr(matrix, "to_memory"):
        matrix = matrix.to_memory()
    csr = sp.csr_matrix(matrix, dtype=np.float64, copy=True)
    csr.eliminate_zeros()
    return csr


def _unlog(matrix: sp.csr_matrix, cell_names: np.ndarray) -> np.ndarray:
    """
    Turns the stored values of log-normalised cells into counts.

    The smallest value gives the scale to within its own rounding error; all certain counts of the cell together then
    give it more exactly, which large counts need.
    """
    cell_of_value = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        expression = np.expm1(matrix.data)
        smallest = np.full(matrix.shape[0], np.inf)
        np.minimum.at(smallest, cell_of_value, expression)
        ratio = expression / smallest[cell_of_value]
        certain = ratio < _CERTAIN_COUNT
        cells = cell_of_value[certain]
        total = np.bincount(cells, expression[certain], minlength=matrix.shape[0])
        total_counts = np.bincount(cells, np.rint(ratio[certain]), minlength=matrix.shape[0])
        ratio = expression / (total / total_counts)[cell_of_value]
        counts = np.rint(ratio)
        deviation = np.nan_to_num(np.abs(ratio - counts) / np.maximum(counts, 1.0), nan=np.inf)
    worst = int(deviation.argmax())
    if deviation[worst] > _RELATIVE_TOLERANCE:
        cell = cell_names[cell_of_value[worst]]
        raise ValueError(
            f"`adata` holds neither counts nor log-normalised counts: in the worst cell, {cell!r}, the value "
            f"{matrix.data[worst]:.5g} would be {ratio[worst]:.3f} transcripts; pass raw counts, in `X` or in `raw.X`."
        )
    return counts
