"""Ragged rows of gene counts to gene tokens: encoded values, the choice of genes, padded and packed arrays.

Remote code: imports numpy only. All work is done on whole blocks of cells; no function loops over cells.

A block of C cells is `indptr` `(C + 1,)` int64 with N entries: cell `i` owns the entries `indptr[i]:indptr[i + 1]`.
"""

from collections.abc import Sequence

import numpy as np

_SMALL_COUNT = 256
_PAIRS_AT_A_TIME = 65536


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


def take_rows(indptr: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Rows in another order, repeated or left out.

    Args:
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits.
        rows (`np.ndarray` of shape `(R,)`): the rows wanted.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: row limits `(R + 1,)` of the result, and for each of its entries where to
        take it from.
    """
    lengths = np.diff(indptr)[rows]
    limits = row_limits(lengths)
    return limits, np.repeat(indptr[rows] - limits[:-1], lengths) + np.arange(limits[-1])


def keep_entries(indptr: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """`(C + 1,)` row limits after only the entries of the mask `kept` `(N,)` are left."""
    before = np.zeros(len(kept) + 1, dtype=np.int64)
    np.cumsum(kept, out=before[1:])
    return before[indptr]


def distinct_counts(counts: np.ndarray, indptr: np.ndarray) -> tuple[np.ndarray, ...]:
    """
    The distinct counts of each cell. There are few (most genes are seen once or twice), and an encoded value depends
    on nothing but the cell and the count, so that slow arithmetic is done once for each.

    Args:
        counts (`np.ndarray` of shape `(N,)`): raw counts, whole numbers of at least 0.
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits.

    Returns:
        `tuple[np.ndarray, ...]`: of M pairs, by row and ascending within it, the row, the count and how often the
        row has it, each `(M,)` int64; and for each entry its pair, `(N,)` int64.
    """
    rows, whole = row_of_entry(indptr), counts.astype(np.int64)
    base = max(int(whole.max(initial=0)) + 1, _SMALL_COUNT)
    small = whole < _SMALL_COUNT
    # Small counts are looked up in a table, the few large ones are sorted.
    slots = rows[small] * _SMALL_COUNT + whole[small]
    times = np.bincount(slots, minlength=(len(indptr) - 1) * _SMALL_COUNT)
    used = np.flatnonzero(times)
    large = np.unique(rows[~small] * base + whole[~small], return_inverse=True, return_counts=True)
    keys = np.concatenate([used // _SMALL_COUNT * base + used % _SMALL_COUNT, large[0]])
    order = np.argsort(keys)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    pair = np.empty(len(whole), dtype=np.int64)
    place_of_slot = np.zeros_like(times)
    place_of_slot[used] = place[: len(used)]
    pair[small] = place_of_slot[slots]
    pair[~small] = place[len(used) :][large[1]]
    return *np.divmod(keys[order], base), np.concatenate([times[used], large[2]])[order], pair


def log1p_values(counts: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """`(N,)` raw counts -> `(N,)` float32: log(1 + 10,000 count / total of the cell)."""
    rows, distinct, _, pair = distinct_counts(counts, indptr)
    return np.log1p(1e4 * distinct / row_sums(counts, indptr)[rows]).astype(np.float32)[pair]


def binned_values(counts: np.ndarray, indptr: np.ndarray, num_bins: int) -> np.ndarray:
    """
    scGPT's value binning (Cui et al. 2024): each cell's counts by quantiles of its own expressed genes.

    scGPT draws u ~ U(0, 1) to spread ties over the bins that share an edge; u = 1/2 gives a cell one answer.

    Args:
        counts (`np.ndarray` of shape `(N,)`): raw counts, whole numbers above 0.
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits.
        num_bins (`int`): expressed genes fall into 1 to `num_bins - 1`.

    Returns:
        `np.ndarray` of shape `(N,)`, float32: whole numbers.
    """
    rows, distinct, times, pair = distinct_counts(counts, indptr)
    edges = _quantiles(np.repeat(distinct, times), indptr, np.linspace(0, 1, num_bins - 1))
    bins = np.empty(len(distinct), dtype=np.float32)
    for start in range(0, len(distinct), _PAIRS_AT_A_TIME):
        piece = slice(start, start + _PAIRS_AT_A_TIME)
        values, limits = distinct[piece, None], edges[rows[piece]]
        left, right = (values >= limits).sum(1), (values > limits).sum(1)
        bins[piece] = np.ceil(0.5 * (left - right) + right)
    return bins[pair]


def _quantiles(in_order: np.ndarray, indptr: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """
    `np.quantile` of every row at once.

    Args:
        in_order (`np.ndarray` of shape `(N,)`): values, ascending within each row.
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits; an empty row gives zeros.
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


def choose_highest(counts: np.ndarray, indptr: np.ndarray, most: int) -> np.ndarray:
    """
    Which genes of each cell become tokens: those with the most counts, the earlier entry first among equals.

    Args:
        counts (`np.ndarray` of shape `(N,)`): raw counts, whole numbers above 0.
        indptr (`np.ndarray` of shape `(C + 1,)`): row limits.
        most (`int`): genes at most of a cell.

    Returns:
        `np.ndarray` of shape `(N,)`, bool.
    """
    kept = np.ones(len(counts), dtype=bool)
    long = np.flatnonzero(np.diff(indptr) > most)
    if not long.size:
        return kept
    limits, entries = take_rows(indptr, long)
    rows, whole = row_of_entry(limits), counts[entries].astype(np.int64)
    base = int(whole.max()) + 1
    in_order = np.sort(rows * base + whole)
    threshold = in_order[limits[1:] - most] - np.arange(len(long)) * base  # the `most`-th highest count
    above, tied = whole > threshold[rows], whole == threshold[rows]
    room = most - np.add.reduceat(above, limits[:-1], dtype=np.int64)
    tied_before = np.cumsum(tied) - tied  # in all rows before and in this one
    tied_before -= tied_before[limits[:-1]][rows]
    kept[entries] = above | (tied & (tied_before < room[rows]))
    return kept


def prepend(values: np.ndarray, indptr: np.ndarray, first: float) -> np.ndarray:
    """`(N,)` entries -> `(N + C,)`: every row with `first` before it."""
    longer = np.empty(len(values) + len(indptr) - 1, dtype=values.dtype)
    heads = indptr[:-1] + np.arange(len(indptr) - 1)
    is_head = np.zeros(len(longer), dtype=bool)
    is_head[heads] = True
    longer[is_head] = first
    longer[~is_head] = values
    return longer


def pad_ragged(values: np.ndarray, indptr: np.ndarray, value: float) -> np.ndarray:
    """`(N,)` entries -> `(C, longest)`: rows filled up on the right with `value`."""
    lengths = np.diff(indptr)
    padded = np.full((len(lengths), int(lengths.max(initial=0))), value, dtype=values.dtype)
    padded[np.arange(padded.shape[1]) < lengths[:, None]] = values
    return padded


def pad_rows(rows: Sequence[np.ndarray], value: float) -> np.ndarray:
    """Rows of different lengths -> one array of the first row's dtype, filled up on the right."""
    return pad_ragged(np.concatenate(rows), row_limits(np.array([len(row) for row in rows])), value).astype(
        rows[0].dtype, copy=False
    )
