"""From AnnData and count matrices to gene tokens: genes matched by name, raw counts checked, values encoded.

Remote code: imports the standard library, numpy, torch and transformers only, not even inside a function. AnnData,
scipy and pandas objects are recognised by what they offer, never by their class.
"""

import copy
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, FeatureExtractionMixin

from .encoding_scmmgpt import (
    binned_values,
    choose_highest,
    keep_entries,
    log1p_values,
    pad_ragged,
    row_limits,
    row_pieces,
    sort_rows,
    sum_by_gene,
    take_rows,
)
from .genes_scmmgpt import NAME_COLUMNS, GeneMatchReport, GeneResolver, list_examples

PAD_TOKEN, CLS_TOKEN = "<pad>", "<cls>"
RAW_LAYER = "raw"  # as `layer`: adata.raw
# Whole numbers that were stored as float32, or divided and multiplied again, are off by less.
COUNT_TOLERANCE = 1e-3
# More than any experiment counts of a gene in a cell, or in many cells together.
MAX_COUNT = 2**40
# Of a dense matrix or a file, what is looked at together.
VALUES_AT_A_TIME = 2**23


@dataclass(frozen=True, eq=False)
class AlignedCounts:
    """
    Raw counts of C cells over the gene vocabulary, as a matrix in compressed sparse rows.

    Args:
        indptr (`np.ndarray` of shape `(C + 1,)`, int64): Cell `i` owns the entries `indptr[i]:indptr[i + 1]` of
            `gene_ids` and `counts`.
        gene_ids (`np.ndarray`, int32): Gene token ids, ascending within a cell.
        counts (`np.ndarray`, float32): Counted molecules or reads: whole numbers, never zero.
        panel (`np.ndarray` of shape `(M,)`, int64): Ids of the genes that were measured, ascending. A panel gene
            without an entry was not seen in that cell; a gene outside the panel was not looked for.
        report ([`GeneMatchReport`]): How the genes of the file were found.
        vocab_fingerprint (`str`): Digest of the gene vocabulary that the ids belong to.
        cell_names (`list[str]`, *optional*): Names of the cells, where the input has them.
    """

    indptr: np.ndarray
    gene_ids: np.ndarray
    counts: np.ndarray
    panel: np.ndarray
    report: GeneMatchReport
    vocab_fingerprint: str
    cell_names: list[str] | None = None

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def row(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Gene ids and counts of one cell."""
        entries = slice(self.indptr[index], self.indptr[index + 1])
        return self.gene_ids[entries], self.counts[entries]

    def select(self, indices: Any) -> "AlignedCounts":
        """The cells that `indices` (positions, a slice or a boolean mask) picks, in its order."""
        cells = np.arange(len(self))[indices].reshape(-1)
        indptr, gene_ids, counts = take_rows(self.indptr, cells, self.gene_ids, self.counts)
        return replace(
            self,
            indptr=indptr,
            gene_ids=gene_ids,
            counts=counts,
            cell_names=self.cell_names and [self.cell_names[cell] for cell in cells],
        )


@dataclass
class _CountTable:
    """Cells x features as they came, with one or several names for each feature."""

    matrix: Any
    shape: tuple[int, ...]
    # The first list names the features, the others fill its gaps. None is a feature but no gene.
    names: list[list[Any]]
    cell_names: list[str] | None = None
    # Values of `layer` that an AnnData offers besides the one that was read.
    other_layers: list[str] | None = None

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Row limits, columns and values of the stored entries, some rows at a time; a sparse matrix is never made
        dense, and of a file no more than a part is in memory."""
        matrix = self.matrix
        if isinstance(matrix, list):  # one {gene: count} for each cell
            column = {name: i for i, name in enumerate(self.names[0])}
            columns = np.array([column[name] for cell in matrix for name in cell], dtype=np.int64)
            values = np.array([count for cell in matrix for count in cell.values()])
            yield row_limits(np.array([len(cell) for cell in matrix])), columns, values
            return
        if isinstance(matrix, torch.Tensor):
            matrix = matrix.detach().cpu()
            matrix = matrix.double() if matrix.is_floating_point() else matrix  # no numpy bfloat16
            if matrix.layout != torch.strided:
                matrix = matrix.to_sparse_coo().coalesce()
                rows, columns = matrix.indices().numpy()
                yield row_limits(np.bincount(rows, minlength=len(matrix))), columns, matrix.values().numpy()
                return
        if hasattr(matrix, "to_memory") and matrix.format != "csr":
            matrix = matrix.to_memory()  # lies in the file by columns, and no row can be read alone
        if hasattr(matrix, "tocsr"):
            csr = matrix.tocsr()
            yield csr.indptr, csr.indices, csr.data
            return
        step = max(1, VALUES_AT_A_TIME // self.shape[1])
        for start in range(0, self.shape[0], step):
            part = matrix[start : start + step]
            if hasattr(part, "indptr"):
                yield part.indptr, part.indices, part.data
            else:
                part = np.asarray(part)
                rows, columns = np.nonzero(part)
                yield row_limits(np.bincount(rows, minlength=len(part))), columns, part[rows, columns]


def _read_anndata(adata: Any, gene_names: Sequence[str] | None, layer: str | None) -> _CountTable:
    source, offered = adata, list(adata.layers)
    if adata.raw is not None and RAW_LAYER not in offered:
        offered.append(RAW_LAYER)
    if layer is None:
        matrix = adata.X
    elif layer == RAW_LAYER and adata.raw is not None:
        source, matrix = adata.raw, adata.raw.X  # with genes of its own, often more than adata
    else:
        matrix = adata.layers.get(layer)
    if matrix is None:
        raise ValueError(
            f"`layer`: the AnnData has no {'X' if layer is None else f'layer {layer!r}'}. Layers available: "
            f"{list_examples(offered, 20)}."
        )
    names = [list(source.var_names if gene_names is None else gene_names)]
    names += [list(source.var[column]) for column in NAME_COLUMNS if column in source.var.columns]
    if "feature_types" in source.var.columns and len(names[0]) == source.shape[1]:
        # CITE-seq: the surface protein called CD4 is not the gene CD4.
        gene = [kind == "Gene Expression" for kind in source.var["feature_types"]]
        if any(gene):
            names = [[n if g else None for n, g in zip(x, gene, strict=True)] for x in names]
    others = [name for name in offered if name != layer]
    return _CountTable(matrix, tuple(source.shape), names, [str(name) for name in adata.obs_names], others)


def _read_matrix(matrix: Any, gene_names: Sequence[str] | None) -> _CountTable:
    cell_names = None
    if hasattr(matrix, "to_numpy") and hasattr(matrix, "columns"):  # pandas
        gene_names = matrix.columns if gene_names is None else gene_names
        cell_names, matrix = [str(name) for name in matrix.index], matrix.to_numpy()
    if len(matrix.shape) != 2:
        raise ValueError(
            f"`cells` must have two dimensions, cells x genes; found shape {tuple(matrix.shape)}. Pass one cell as "
            "`cells.reshape(1, -1)`."
        )
    if gene_names is None or isinstance(gene_names, str):
        raise ValueError(
            f"`gene_names` must be the {matrix.shape[1]} gene names of a matrix in column order, for genes are "
            f"matched by name and never by position; found {gene_names!r}. Pass a list."
        )
    return _CountTable(matrix, tuple(matrix.shape), [list(gene_names)], cell_names)


def _read_cells(cells: Any, gene_names: Sequence[str] | None, layer: str | None) -> _CountTable:
    dicts = [cells] if isinstance(cells, Mapping) else cells
    if hasattr(cells, "obs") and hasattr(cells, "var_names"):
        table = _read_anndata(cells, gene_names, layer)
    elif layer is not None:
        raise ValueError(f"`layer`={layer!r} needs an AnnData; found {type(cells).__name__}.")
    elif isinstance(dicts, list) and all(isinstance(cell, Mapping) for cell in dicts):
        if gene_names is not None:
            raise ValueError("`gene_names`: cells given as {gene: count} name their genes. Drop it.")
        names = list(dict.fromkeys(name for cell in dicts for name in cell))
        table = _CountTable(dicts, (len(dicts), len(names)), [names])
    elif hasattr(cells, "shape"):
        table = _read_matrix(cells, gene_names)
    else:
        raise ValueError(
            "`cells` must be an AnnData, a matrix with `gene_names`, a DataFrame, or one or a list of "
            f"{{gene: count}} dicts; found {type(cells).__name__}. Read files with anndata first."
        )
    num_cells, num_genes = table.shape
    if not num_cells or not num_genes:
        raise ValueError(f"`cells` is empty: {num_cells} cells x {num_genes} genes. Pass at least one of each.")
    if len(table.names[0]) != num_genes:
        raise ValueError(
            f"`gene_names` has {len(table.names[0])} names, but `cells` is {num_cells} cells x {num_genes} genes. "
            "Pass one name for each column, or the transpose of genes x cells."
        )
    return table


def _check_counts(values: np.ndarray, other_layers: Sequence[str] | None) -> np.ndarray:
    """The values as whole numbers; anything but raw counts is an error."""
    place = ""
    if other_layers is not None:
        offered = " or ".join(f'`layer="{name}"`' for name in other_layers)
        place = f" (the file also offers {offered})" if offered else " (the file offers no layer and no raw)"
    cure = f"Pass raw counts{place}, or recover them from log-normalised values with `scmmgpt.data.recover_counts`."
    if values.dtype.kind == "b":
        raise ValueError(
            "`cells` holds booleans: whether a gene was seen, not how often. Pass raw counts, or `cells.astype(int)` "
            "if each gene was counted once."
        )
    if values.dtype.kind not in "iuf":
        raise ValueError(f"`cells` must hold numbers; found dtype {values.dtype}. {cure}")
    with np.errstate(invalid="ignore"):
        counts = values.astype(np.uint32)
    if (counts == values).all():  # of anything but a whole number in range, the cast makes something else
        return counts
    values = values.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf
        counts = np.rint(values)
        usable = (np.abs(values - counts) <= COUNT_TOLERANCE) & (values >= 0) & (values < MAX_COUNT)
    if usable.all():
        return counts
    for problem, found in (
        ("NaN", np.isnan(values)),
        ("infinite values", np.isinf(values)),
        (f"values of {MAX_COUNT:,} and more", values >= MAX_COUNT),
        ("negative values (scaled or batch-corrected?)", values < 0),
        ("values that are not whole numbers (normalised?)", ~usable),
    ):
        if found.any():
            raise ValueError(
                f"`cells` holds {problem}: {found.sum()} of {values.size} values of matched genes, the first is "
                f"{values[found.argmax()]:g}. {cure}"
            )
    raise AssertionError("a value is unusable for no known reason")


class ScMMGPTFeatureExtractor(FeatureExtractionMixin):
    r"""
    Turns cells into gene tokens and encoded expression, with genes matched by name.

    The vocabulary is saved in `processor_config.json` (`preprocessor_config.json` when saved alone), every name that
    it knows included: 4 MB for 55,744 genes with aliases and mouse orthologs, and no copy or download of a model can
    lose it.

    Args:
        vocab (`list[str]`): Gene tokens in id order. Tokens in angle brackets are special; `"<pad>"` and `"<cls>"` are
            required.
        ensembl_ids (`list[str]`, *optional*): Ensembl gene id of each token, `""` where there is none.
        aliases (`dict[str, str]`, *optional*): Token -> other names of the gene, such as `"CD20|B1"`: aliases,
            previous symbols, further Ensembl ids.
        orthologs (`dict[str, dict[str, str]]`, *optional*): Species -> token -> names of its orthologs there, such as
            `{"mouse": {"CD3D": "Cd3d|ENSMUSG00000032094"}}`: cells of these species are read as well.
        max_genes (`int`, *optional*, defaults to 1200): Most tokens of a cell, `<cls>` included.
        value_encoding (`str`, *optional*, defaults to `"log1p"`): `"log1p"` of 10,000 * count / total over the panel,
            or `"binned"`: scGPT's bins (Cui et al. 2024) with u = 1/2. Both see all expressed genes, before the choice
            of `max_genes`.
        num_bins (`int`, *optional*, defaults to 51): Bins of `"binned"`; expressed genes fall into 1 to `num_bins -
            1`.
        min_match_share (`float`, *optional*, defaults to 0.1): A smaller [`GeneMatchReport.share`] of matched genes is
            an error.
        pad_value (`float`, *optional*, defaults to -2.0): Value of `<cls>` and `<pad>` tokens.
        mask_value (`float`, *optional*, defaults to -1.0): Value that replaces masked expression in training.
    """

    model_input_names = [
        "cell_gene_ids",
        "cell_values",
        "cell_attention_mask",
        "panel_gene_ids",
        "cell_panel_index",
    ]

    def __init__(
        self,
        vocab: list[str] | None = None,
        ensembl_ids: list[str] | None = None,
        aliases: dict[str, str] | None = None,
        orthologs: dict[str, dict[str, str]] | None = None,
        max_genes: int = 1200,
        value_encoding: str = "log1p",
        num_bins: int = 51,
        min_match_share: float = 0.1,
        pad_value: float = -2.0,
        mask_value: float = -1.0,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self.vocab = vocab
        self.ensembl_ids = ensembl_ids
        self.aliases = aliases
        self.orthologs = orthologs
        self.max_genes = max_genes
        self.value_encoding = value_encoding
        self.num_bins = num_bins
        self.min_match_share = min_match_share
        self.pad_value = pad_value
        self.mask_value = mask_value
        self._check_settings()
        self._index_vocab()

    @classmethod
    def from_genes(
        cls, symbols: Sequence[str], ensembl_ids: Sequence[str] | None = None, **kwargs
    ) -> "ScMMGPTFeatureExtractor":
        """A vocabulary of `symbols` in the given order, then `<pad>` and `<cls>`."""
        ensembl_ids = None if ensembl_ids is None else [*ensembl_ids, "", ""]
        return cls([*symbols, PAD_TOKEN, CLS_TOKEN], ensembl_ids, **kwargs)

    def _check_settings(self) -> None:
        if not self.vocab or not all(isinstance(token, str) for token in self.vocab):
            raise ValueError(
                "`vocab` must be a list of gene tokens (strings); it is missing, empty or holds others. If it comes "
                "from a folder, the processor_config.json there is incomplete: save the processor again."
            )
        repeats = len(self.vocab) - len(set(self.vocab))
        missing = [token for token in (PAD_TOKEN, CLS_TOKEN) if token not in self.vocab]
        if repeats or missing:
            raise ValueError(
                f"`vocab` repeats {repeats} of its {len(self.vocab)} tokens and lacks the special tokens {missing}. "
                "Pass each token once, or genes only to `from_genes`."
            )
        names = self.ensembl_ids if self.ensembl_ids is not None else self.vocab
        if len(names) != len(self.vocab) or not all(isinstance(name, str) for name in names):
            raise ValueError(
                f"`ensembl_ids` must hold one string for each of the {len(self.vocab)} tokens, '' where there is no "
                f"id; found {len(names)} values."
            )
        if self.value_encoding not in ("log1p", "binned"):
            raise ValueError(f"`value_encoding`={self.value_encoding!r} must be 'log1p' or 'binned'.")
        for name, least in (("max_genes", 2), ("num_bins", 3), ("min_match_share", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}`={getattr(self, name)} must be at least {least}.")

    def _index_vocab(self) -> None:
        self._vocab_fingerprint = hashlib.sha256("\n".join(self.vocab).encode()).hexdigest()[:16]
        self._resolver = GeneResolver(self.vocab, self.ensembl_ids, self.aliases, self.orthologs)
        self._pad_token_id, self._cls_token_id = map(self.vocab.index, (PAD_TOKEN, CLS_TOKEN))

    @property
    def pad_token_id(self) -> int:
        """Id of the padding token."""
        return self._pad_token_id

    @property
    def cls_token_id(self) -> int:
        """Id of the token that opens every cell."""
        return self._cls_token_id

    @property
    def gene_token_ids(self) -> np.ndarray:
        """Ids of the tokens that are genes, ascending, int64."""
        return self._resolver.gene_token_ids

    def to_dict(self) -> dict[str, Any]:
        """Settings and vocabulary, without the look-up tables that are made from them."""
        saved = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return copy.deepcopy(saved) | {"feature_extractor_type": type(self).__name__}

    def __repr__(self) -> str:
        names = ("max_genes", "value_encoding", "num_bins", "min_match_share")
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{type(self).__name__}({self.gene_token_ids.size} genes, {settings})"

    def gene_ids(self, names: Iterable[str], species: str | None = None) -> np.ndarray:
        """
        Gene token ids of names, int64, -1 where a name is unknown or may mean several genes.

        A name is looked up as the exact symbol, then without regard to case (unless two genes differ by case only),
        then as an Ensembl id without its version, then as an alias, then as a copy of a name ("CD3D-1").

        Args:
            names (`Iterable[str]`): Names of genes.
            species (`str`, *optional*): Species whose names these are, if it is not the vocabulary's own: one of
                `orthologs`.

        Raises:
            `ValueError`: when the vocabulary has no orthologs of `species`.
        """
        return self._resolver.ids(names, species)

    def align(
        self,
        cells: Any,
        gene_names: Sequence[str] | None = None,
        layer: str | None = None,
        keep_empty_cells: bool = False,
    ) -> AlignedCounts:
        """
        Reads raw counts and sorts them by the gene vocabulary.

        Columns that name the same gene are summed, and so are the genes of another species that share an ortholog.
        Only the values of matched genes are used, and checked: whole numbers up to 0.001, rounded. Booleans are
        refused, for they are not counts.

        Args:
            cells (`Any`): `AnnData` (in memory, backed or a view), a cells x genes matrix (numpy, scipy.sparse,
                torch), a `pandas.DataFrame` with genes as columns, one or a list of `{gene: count}` dicts whose panel
                is all genes they name, or [`AlignedCounts`], which pass through.
            gene_names (`Sequence[str]`, *optional*): Gene symbols or Ensembl ids of the columns, required for a bare
                matrix. Those of an `AnnData` are its `var_names`; where they fail, columns of `var` such as
                `ensembl_id` and `feature_name` are asked gene by gene.
            layer (`str`, *optional*): Layer of the `AnnData` with the raw counts, if they are not in `X`; `"raw"` for
                `adata.raw`.
            keep_empty_cells (`bool`, *optional*, defaults to `False`): keep cells without counts of matched genes, as
                cells without entries.

        Raises:
            `ValueError`: when too few genes match, or they are those of a species without orthologs in the vocabulary,
            or surface proteins; when the values are not raw counts, or, unless `keep_empty_cells`, a cell has no
            counts of matched genes.
        """
        if hasattr(cells, "panel") and hasattr(cells, "indptr"):
            if gene_names is not None or layer is not None:
                raise ValueError("`cells` is aligned already. Drop `gene_names` and `layer`.")
            if cells.vocab_fingerprint != self._vocab_fingerprint:
                raise ValueError(
                    f"`cells` was aligned to another gene vocabulary (fingerprint {cells.vocab_fingerprint}) than "
                    f"this one (fingerprint {self._vocab_fingerprint}, {self.gene_token_ids.size} genes): its ids "
                    "mean other genes. Align the original cells again, with this model's feature extractor."
                )
            return cells
        table = _read_cells(cells, gene_names, layer)
        ids, report = self._resolver.match(table.names, self.min_match_share)
        blocks = [self._sort_by_gene(ids, *block, table.other_layers) for block in table.blocks()]
        # Most inputs are one block, and a copy of it would be as large.
        lengths, gene_ids, counts = blocks[0] if len(blocks) == 1 else map(np.concatenate, zip(*blocks, strict=True))
        if not keep_empty_cells:
            self._check_empty_cells(np.flatnonzero(lengths == 0), table, report)
        return AlignedCounts(
            indptr=row_limits(lengths),
            gene_ids=gene_ids,
            counts=counts,
            panel=np.unique(ids[ids >= 0]),
            report=report,
            vocab_fingerprint=self._vocab_fingerprint,
            cell_names=table.cell_names,
        )

    @staticmethod
    def _sort_by_gene(
        ids: np.ndarray, indptr: np.ndarray, columns: np.ndarray, values: np.ndarray, layers: list[str] | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lengths of rows, gene ids and counts of stored entries: by gene, columns of one gene summed, no zeros."""
        ids = ids.astype(np.int32)
        lengths = np.empty(len(indptr) - 1, dtype=np.int64)
        # Room for all entries; what stays unused is never touched, and so takes no memory.
        gene_ids, counts = np.empty(len(columns), dtype=np.int32), np.empty(len(columns), dtype=np.float32)
        size = 0
        for rows, entries, limits in row_pieces(indptr):
            genes, found = ids.take(columns[entries]), values[entries]
            known = genes >= 0
            if not known.all():
                limits, genes, found = keep_entries(limits, known), genes[known], found[known]
            limits, genes, found = sum_by_gene(limits, genes, _check_counts(found, layers))
            gene_ids[size : size + len(genes)], counts[size : size + len(genes)] = genes, found
            lengths[rows] = np.diff(limits)
            size += len(genes)
        return lengths, gene_ids[:size], counts[:size]

    def _check_empty_cells(self, empty: np.ndarray, table: _CountTable, report: GeneMatchReport) -> None:
        if empty.size:
            species = f", species={report.species!r}" if report.matched_by_ortholog else ""
            names = table.cell_names or [f"cell {i}" for i in range(table.shape[0])]
            raise ValueError(
                f"`cells`: {empty.size} of {table.shape[0]} cells have no counts in the {report.matched} matched "
                f"genes: {list_examples(names[i] for i in empty)}. Filter them out: keep cells whose counts over the "
                f"columns where `feature_extractor.gene_ids(adata.var_names{species}) >= 0` have a sum above 0."
            )

    def encode(
        self, indptr: np.ndarray, gene_ids: np.ndarray, counts: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """
        Tokens of a block of C cells: of each `<cls>`, then its expressed genes by ascending id.

        Of more than `max_genes - 1` genes those with the most counts are kept, the smaller id first among equals: the
        same cell has the same tokens in any gene order and any batch.

        Args:
            indptr (`np.ndarray` of shape `(C + 1,)`, int64): cell `i` owns the entries `indptr[i]:indptr[i + 1]`.
            gene_ids (`np.ndarray` of shape `(N,)`, integers): gene token ids, ascending within a cell.
            counts (`np.ndarray` of shape `(N,)`): raw counts; genes without any get no token.

        Returns:
            `tuple[np.ndarray, np.ndarray, np.ndarray]`: limits of the cells `(C + 1,)` among the tokens, token ids
            (int64) and values (float32) of all tokens.
        """
        if counts.min(initial=1) <= 0:
            seen = counts > 0
            indptr, gene_ids, counts = keep_entries(indptr, seen), gene_ids[seen], counts[seen]
        most = self.max_genes - 1
        limits = row_limits(np.minimum(np.diff(indptr), most) + 1)
        token_ids, values = np.empty(limits[-1], dtype=np.int64), np.empty(limits[-1], dtype=np.float32)
        is_gene = np.ones(limits[-1], dtype=bool)
        token_ids[limits[:-1]], values[limits[:-1]], is_gene[limits[:-1]] = self.cls_token_id, self.pad_value, False
        for rows, entries, piece in row_pieces(indptr):
            ids, raw, tokens = gene_ids[entries], counts[entries], slice(limits[rows.start], limits[rows.stop])
            is_long = np.diff(piece).max() > most
            if is_long or self.value_encoding == "binned":
                in_order = raw.copy()
                sort_rows(in_order, piece)
            if self.value_encoding == "binned":
                encoded = binned_values(raw, in_order, piece, self.num_bins)
            else:
                encoded = log1p_values(raw, piece)
            if is_long:
                chosen = choose_highest(raw, in_order, piece, most)
                ids, encoded = ids[chosen], encoded[chosen]
            token_ids[tokens][is_gene[tokens]] = ids
            values[tokens][is_gene[tokens]] = encoded
        return limits, token_ids, values

    def pad(self, limits: np.ndarray, token_ids: np.ndarray, values: np.ndarray) -> dict[str, np.ndarray]:
        """What [`~ScMMGPTFeatureExtractor.encode`] returns, as `cell_gene_ids`, `cell_values`, `cell_attention_mask`
        of shape `(C, G)`, padded on the right."""
        padded_ids = pad_ragged(token_ids, limits, self.pad_token_id)
        return {
            "cell_gene_ids": padded_ids,
            "cell_values": pad_ragged(values, limits, self.pad_value),
            "cell_attention_mask": (np.arange(padded_ids.shape[1]) < np.diff(limits)[:, None]).astype(np.int64),
        }

    def __call__(
        self,
        cells: Any,
        gene_names: Sequence[str] | None = None,
        layer: str | None = None,
        return_targets: bool = False,
        return_tensors: str | None = "pt",
    ) -> BatchFeature:
        """
        Model inputs of C cells.

        Args:
            cells, gene_names, layer: As in [`~ScMMGPTFeatureExtractor.align`].
            return_targets (`bool`, *optional*, defaults to `False`): Adds `target_gene_ids` and `target_counts` of
                shape `(C, N)`: all expressed genes and their raw counts, beyond `max_genes` too.
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` for torch tensors, `"np"` for numpy arrays.

        Returns:
            [`BatchFeature`]: `cell_gene_ids`, `cell_values`, `cell_attention_mask` of shape `(C, G)`, padded on the
            right; `panel_gene_ids` of shape `(1, M)`, the genes measured, and `cell_panel_index` of shape `(C,)`, the
            row of it that belongs to each cell.

        Raises:
            `ValueError`: as [`~ScMMGPTFeatureExtractor.align`] does, and for another `return_tensors`.
        """
        if return_tensors not in ("pt", "np", None):
            raise ValueError(f"`return_tensors`={return_tensors!r} must be 'pt' or 'np'.")
        aligned = self.align(cells, gene_names, layer)
        data = self.pad(*self.encode(aligned.indptr, aligned.gene_ids, aligned.counts))
        data["panel_gene_ids"] = aligned.panel[None, :]
        data["cell_panel_index"] = np.zeros(len(aligned), dtype=np.int64)
        if return_targets:
            data["target_gene_ids"] = pad_ragged(aligned.gene_ids, aligned.indptr, self.pad_token_id, np.int64)
            data["target_counts"] = pad_ragged(aligned.counts, aligned.indptr, 0.0)
        return BatchFeature(data, tensor_type=return_tensors)


__all__ = ["AlignedCounts", "GeneMatchReport", "ScMMGPTFeatureExtractor"]
