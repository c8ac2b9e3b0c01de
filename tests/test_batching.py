"""Blocks of ragged cells and batches by token budget: every cell once, and no batch over its budget."""

from collections import Counter
from itertools import pairwise

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from scmmgpt.data import CellBlock, cut_batches
from scmmgpt.data.batching import padding_share
from scmmgpt.data.draws import hash64, uniform
from scmmgpt.encoding_scmmgpt import sum_by_gene

lengths_of_cells = st.lists(st.integers(1, 500), min_size=1, max_size=60).map(np.array)


def make_block(rows: list[list[int]]) -> CellBlock:
    return CellBlock(
        np.cumsum([0, *map(len, rows)]),
        np.concatenate([np.arange(len(row), dtype=np.int32) for row in rows]),
        np.concatenate([np.array(row, dtype=np.float32) for row in rows]),
        np.zeros(len(rows), dtype=np.int32),
        np.arange(len(rows), dtype=np.int32),
        np.array([f"c{i}" for i in range(len(rows))], dtype=object),
    )


def rows_of(block: CellBlock) -> list[list[int]]:
    return [part.astype(int).tolist() for part in np.split(block.counts, block.indptr[1:-1])]


@given(st.lists(st.lists(st.integers(1, 9), max_size=5), min_size=1, max_size=8), st.data())
def test_selected_and_joined_cells_are_those_of_plain_lists(rows, data):
    cells = data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=1, max_size=10))
    chosen = make_block(rows).select(cells)
    assert rows_of(chosen) == [rows[i] for i in cells]
    assert chosen.cell_ids.tolist() == [f"c{i}" for i in cells]
    both = CellBlock.concatenate([chosen, make_block(rows)])
    assert rows_of(both) == [rows[i] for i in cells] + rows
    assert both.facts_index.tolist() == [*cells, *range(len(rows))]


entries_of_cells = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 2**20)), max_size=8)


@given(st.lists(entries_of_cells, min_size=1, max_size=6), st.sampled_from([np.uint16, np.int32, np.int64]))
def test_entries_of_one_gene_are_summed_and_sorted_as_by_hand(cells, dtype):
    limits = np.cumsum([0, *map(len, cells)])
    gene_ids, counts = np.array([entry for cell in cells for entry in cell]).reshape(-1, 2).T
    limits, gene_ids, counts = sum_by_gene(limits, gene_ids.astype(dtype), counts.astype(np.float64))
    assert (gene_ids.dtype, counts.dtype) == (dtype, np.float32)
    for i, cell in enumerate(cells):
        total = Counter()
        for gene, count in cell:
            total[gene] += count
        entries = slice(*limits[i : i + 2])
        expected = sorted((gene, count) for gene, count in total.items() if count)
        assert list(zip(gene_ids[entries].tolist(), counts[entries].tolist(), strict=True)) == expected


@given(lengths_of_cells, st.integers(1, 3000), st.integers(0, 5))
def test_every_cell_is_in_one_batch_within_the_budget(lengths, max_tokens, seed):
    batches = cut_batches(lengths, max_tokens, np.random.default_rng(seed))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= max_tokens
    # Greedy cuts are the fewest that sorted cells allow: each batch could not take the shortest cell of the next.
    in_order = sorted(batches, key=lambda batch: (lengths[batch].max(), lengths[batch].min(), -len(batch)))
    for one, other in pairwise(in_order):
        assert (len(one) + 1) * lengths[other].min() > max_tokens


def test_like_lengths_come_together_in_random_order():
    lengths = np.random.default_rng(0).integers(200, 2000, 5000)
    batches = cut_batches(lengths, 40_000, np.random.default_rng(1))
    assert padding_share(lengths, batches) < 0.02
    at_random = np.array_split(np.random.default_rng(2).permutation(5000), len(batches))
    assert padding_share(lengths, at_random) > 0.3
    means = [lengths[batch].mean() for batch in batches]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3  # not from short to long
    again = cut_batches(lengths, 40_000, np.random.default_rng(1))
    assert all(map(np.array_equal, batches, again))


def test_a_budget_below_one_token_is_refused():
    with pytest.raises(ValueError, match="`max_tokens`=0: expected at least 1"):
        cut_batches(np.array([3]), 0, np.random.default_rng(0))


def splitmix64(state: int) -> int:
    """One output of SplitMix64 in Python's own integers."""
    mask = 2**64 - 1
    state = (state + 0x9E3779B97F4A7C15) & mask
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & mask
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & mask
    return state ^ (state >> 31)


def test_hashes_are_those_of_splitmix64():
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the published first output of seed 0
    assert int(hash64(0)) == splitmix64(0)
    assert int(hash64(7, 5)) == splitmix64(splitmix64(7) ^ 5)
    assert hash64(7, np.array([5, 6])).tolist() == [splitmix64(splitmix64(7) ^ part) for part in (5, 6)]


def test_draws_are_uniform_and_independent_of_neighbouring_numbers():
    draws = uniform(3, np.arange(200)[:, None], np.arange(500)[None])
    assert 0 <= draws.min() < draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    assert ((counts - 5000) ** 2 / 5000).sum() < 43.8  # chi-square of 19 degrees at p = 0.001
    assert abs(np.corrcoef(draws[:-1].ravel(), draws[1:].ravel())[0, 1]) < 0.015
    assert abs(np.corrcoef(draws[:, :-1].ravel(), draws[:, 1:].ravel())[0, 1]) < 0.015
