"""Ragged rows of gene counts to gene tokens: encoded values, the choice of genes, padded and packed arrays.

Remote code: imports numpy only. All arithmetic is done on whole blocks of cells, none cell by cell.

A block of C cells is `indptr` `(C + 1,)` int64 with N entries: cell `i` owns the entries `indptr[i]:indptr[i + 1]`.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

# Counts below this are looked up in a table of every cell.
_SMALL_COUNTS = 64
_PIECE_ENTRIES, _PIECE_ROWS = 2**16, 2**10


def row_of_entry(indptr: np.ndarray) -> np.ndarray:
    """`(C + 1,)` row limits -> `(N,)` int64: the row of each entry."""
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def row_limits(lengths: np.ndarray) -> np.ndarray:
    """`(C,)` entries of each row -> `(C + 1,)` int64 row limits."""
    limits = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=limits[1:])
    return limits


def row_sums(values: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """`(N,)` values -> `(C,)` float64 sums of rows; 0 for an empty row. Sums of whole numbers are exact."""
    sums = np.zeros(len(indptr) - 1)
    filled = np.diff(indptr) > 0  # reduceat would give an empty row the first entry of the next
    if filled.any():
        sums[filled] = np.add.reduceat(values, indptr[:-1][filled], dtype=np.float64)
    return sums


def take_rows(indptr: np.ndarray, rows: np.ndarray, *values: np.ndarray) -> tuple[np.ndarray, ...]:
    """
    Rows in another order, repeated or left out.

    Args:
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits.
        rows (`np.ndarray` of shape `(R,)`): the rows wanted.
        values (`np.ndarray` of shape `(N,)`): any number of arrays of entries.

    Returns:
        `tuple[np.ndarray, ...]`: row limits `(R + 1,)` of the result, and each of `values` with its entries.
    """
    starts, lengths = indptr[:-1][rows], np.diff(indptr)[rows]
    parts = [slice(start, start + size) for start, size in zip(starts.tolist(), lengths.tolist(), strict=True)]
    return row_limits(lengths), *(np.concatenate([every[:0], *(every[part] for part in parts)]) for every in values)


def keep_entries(indptr: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """`(C + 1,)` row limits after only the entries of the mask `kept` `(N,)` are left."""
    before = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum(kept, out=before[1:])
    return before[indptr]


def row_pieces(indptr: np.ndarray) -> Iterator[tuple[slice, slice, np.ndarray]]:
    """
    A block in runs of rows that are small enough for every array of a step to stay in the processor's cache.

    Args:
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits; they need not begin with 0.

    Yields:
        `tuple[slice, slice, np.ndarray]`: the rows, their entries, and their row limits counted from 0.
    """
    start = 0
    while start < len(indptr) - 1:
        stop = int(np.searchsorted(indptr, indptr[start] + _PIECE_ENTRIES, side="right")) - 1
        stop = min(max(stop, start + 1), start + _PIECE_ROWS)  # a longer row is a piece of its own
        limits = indptr[start : stop + 1].astype(np.int64)
        yield slice(start, stop), slice(int(limits[0]), int(limits[-1])), limits - limits[0]
        start = stop


def sort_rows(values: np.ndarray, indptr: np.ndarray) -> None:
    """Puts `(N,)` numbers in ascending order within each row, in place."""
    # Row by row is quicker than all at once, however numpy is asked to: short rows stay in the nearest cache.
    for start, stop in pairwise(indptr.tolist()):
        values[start:stop].sort()


def sum_by_gene(
    indptr: np.ndarray, gene_ids: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """
    Entries in any order -> ascending gene ids within each row, one entry for each gene with counts.

    Args:
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits.
        gene_ids (`np.ndarray` of shape `(N,)`, integers): a gene may come more than once in a row.
        counts (`np.ndarray` of shape `(N,)`): whole numbers from 0 to 2**40.

    Returns:
        `tuple[np.ndarray, np.ndarray, np.ndarray]`: row limits, gene ids and counts (float32).
    """
    if not _rises_within_rows(gene_ids, indptr):  # it does where the file has the vocabulary's order
        # Gene and count as one number: numpy sorts plain numbers several times as fast as it finds the order in which
        # to take others, and short ones twice as fast as long ones.
        bits = int(counts.max()).bit_length()
        dtype = np.uint32 if bits + int(gene_ids.max()).bit_length() <= 32 else np.uint64
        joint = gene_ids.astype(dtype) << dtype(bits)
        joint |= counts.astype(dtype)
        sort_rows(joint, indptr)
        gene_ids, counts = (joint >> dtype(bits)).astype(gene_ids.dtype), joint & dtype((1 << bits) - 1)
        is_first = np.ones(len(gene_ids), dtype=bool)
        np.not_equal(gene_ids[1:], gene_ids[:-1], out=is_first[1:])
        is_first[indptr[:-1][np.diff(indptr) > 0]] = True
        if not is_first.all():
            counts = np.add.reduceat(counts, np.flatnonzero(is_first), dtype=np.float64)
            indptr, gene_ids = keep_entries(indptr, is_first), gene_ids[is_first]
    seen = counts > 0
    if not seen.all():
        indptr, gene_ids, counts = keep_entries(indptr, seen), gene_ids[seen], counts[seen]
    return indptr, gene_ids, counts.astype(np.float32, copy=False)


def _rises_within_rows(keys: np.ndarray, indptr: np.ndarray) -> bool:
    rises = keys[1:] > keys[:-1]
    starts = indptr[1:-1]
    rises[starts[(starts > 0) & (starts < len(keys))] - 1] = True  # from one row to the next it may fall
    return bool(rises.all())


def log1p_values(counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """`(N,)` raw counts -> `(N,)` float32: log(1 + 10,000 count / total of the cell)."""
    totals = row_sums(counts, indptr)
    small = np.log1p(1e4 * np.arange(_SMALL_COUNTS) / np.maximum(totals, 1.0)[:, None])
    values, large, rows = _look_up(small, counts, indptr)
    values[large] = np.log1p(1e4 * counts[large].astype(np.float64) / totals[rows])
    return values


def binned_values(counts: np.ndarray, in_order: np.ndarray, indptr: np.ndarray, num_bins: int) -> np.ndarray:
    """
    scGPT's value binning (Cui et al. 2024): each cell's counts by quantiles of its own expressed genes.

    scGPT draws u ~ U(0, 1) to spread ties over the bins that share an edge; u = 1/2 gives a cell one answer.

    Args:
        counts (`np.ndarray` of shape `(N,)`): raw counts, whole numbers above 0.
        in_order (`np.ndarray` of shape `(N,)`): the counts, ascending within each row.
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits.
        num_bins (`int`): expressed genes fall into 1 to `num_bins - 1`.

    Returns:
        `np.ndarray` of shape `(N,)`, float32: whole numbers.
    """
    edges = _quantiles(in_order, indptr, np.linspace(0, 1, num_bins - 1))
    # An edge is at most v from the whole number ceil(edge) on, and below v from floor(edge) + 1 on.
    at_most, below = np.ceil(edges).astype(np.int64), np.floor(edges).astype(np.int64) + 1
    values, large, rows = _look_up(_middle(*map(_reached_by_small, (at_most, below))), counts, indptr)
    values[large] = _middle(*(_reached_by(counts[large], rows, first) for first in (at_most, below)))
    return values


def _middle(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return np.ceil(0.5 * (left - right) + right)


def _reached_by_small(first: np.ndarray) -> np.ndarray:
    """`(C, Q)` whole numbers from which on each edge counts -> `(C, 64)`: how many count at each small number."""
    rows = np.arange(len(first))[:, None] * (_SMALL_COUNTS + 1)
    slots = rows + np.minimum(first, _SMALL_COUNTS)
    found = np.bincount(slots.ravel(), minlength=len(first) * (_SMALL_COUNTS + 1))
    return found.reshape(len(first), -1)[:, :-1].cumsum(1)


def _reached_by(counts: np.ndarray, rows: np.ndarray, first: np.ndarray) -> np.ndarray:
    """How many edges of its row count at each of some `counts` `(M,)`."""
    if not len(counts):
        return rows
    base = int(first.max()) + 1  # a row's largest count is its last edge
    in_order = (first + np.arange(len(first))[:, None] * base).ravel()
    return np.searchsorted(in_order, counts.astype(np.int64) + rows * base, side="right") - rows * first.shape[1]


def _look_up(of_small: np.ndarray, counts: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, ...]:
    """
    Values of entries from a table of what small counts have in each cell: there are few distinct ones, for most genes
    are seen once or twice.

    Args:
        of_small (`np.ndarray` of shape `(C, 64)`): value of each cell and small count.
        counts, indptr (`np.ndarray` of shapes `(N,)` and `(C + 1,)`): the entries.

    Returns:
        `tuple[np.ndarray, ...]`: values `(N,)` float32; places of the larger counts, whose values are still to be
        computed, and their rows.
    """
    slots = np.minimum(counts, _SMALL_COUNTS - 1).astype(np.int64)
    slots += np.repeat(np.arange(len(of_small)) * _SMALL_COUNTS, np.diff(indptr))
    large = np.flatnonzero(counts >= _SMALL_COUNTS)
    return of_small.astype(np.float32).ravel().take(slots), large, np.searchsorted(indptr, large, side="right") - 1


def _quantiles(in_order: np.ndarray, indptr: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """
    `np.quantile` of every row at once.

    Args:
        in_order (`np.ndarray` of shape `(N,)`): values, ascending within each row.
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits; an empty row gives values of other rows.
        levels (`np.ndarray` of shape `(Q,)`): in [0, 1].

    Returns:
        `np.ndarray` of shape `(C, Q)`, float64.
    """
    last = np.maximum(np.diff(indptr) - 1, 0)[:, None]
    place = levels * last
    below = np.floor(place).astype(np.int64)
    share = place - below
    start = np.minimum(indptr[:-1], len(in_order) - 1)[:, None]
    low = in_order[start + below].astype(np.float64)
    high = in_order[start + np.minimum(below + 1, last)].astype(np.float64)
    # As numpy interpolates, to the last bit: from the nearer end.
    step = high - low
    return np.where(share >= 0.5, high - step * (1 - share), low + step * share)


def choose_highest(counts: np.ndarray, in_order: np.ndarray, indptr: np.ndarray, most: int) -> np.ndarray:
    """
    Which genes of each cell become tokens: those with the most counts, the earlier entry first among equals.

    Args:
        counts (`np.ndarray` of shape `(N,)`): raw counts, whole numbers above 0.
        in_order (`np.ndarray` of shape `(N,)`): the counts, ascending within each row.
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits.
        most (`int`): genes at most of a cell.

    Returns:
        `np.ndarray` of shape `(N,)`, bool.
    """
    is_long = np.diff(indptr) > most
    # The `most`-th highest count of each long cell; all genes of the others are above 0.
    threshold = np.zeros(len(is_long), dtype=counts.dtype)
    threshold[is_long] = in_order[indptr[1:][is_long] - most]
    limit = np.repeat(threshold, np.diff(indptr))
    chosen = counts > limit
    room = most - row_sums(chosen, indptr).astype(np.int64)
    tied = np.flatnonzero(counts == limit)
    before = np.searchsorted(tied, indptr)  # ties of the rows before
    allowed = np.repeat(before[:-1] + room, np.diff(before))
    chosen[tied[np.arange(len(tied)) < allowed]] = True
    return chosen


def pad_ragged(
    values: np.ndarray, indptr: np.ndarray, value: float, dtype: np.typing.DTypeLike | None = None
) -> np.ndarray:
    """`(N,)` entries -> `(C, longest)` of their type or `dtype`: rows filled up on the right with `value`."""
    return pad_rows([values[start:stop] for start, stop in pairwise(indptr.tolist())], value, dtype or values.dtype)


def pad_rows(rows: Sequence[np.ndarray], value: float, dtype: np.typing.DTypeLike = np.int64) -> np.ndarray:
    """C rows of different lengths -> `(C, longest)` of type `dtype`, filled up on the right with `value`."""
    padded = np.empty((len(rows), max(map(len, rows), default=0)), dtype=dtype)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
        place[len(row) :] = value
    return padded
