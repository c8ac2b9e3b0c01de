"""Streams: every cell once an epoch over ranks and workers, the very next cell after a stop, bounded memory."""

from collections import Counter
from itertools import chain, islice

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch.utils.data import DataLoader

from scmmgpt.data import CaptionWriter, CellBlock, CellFacts, CellStream, Ontology, ScMMGPTDataCollator, StreamLoader
from scmmgpt.data.stream import Place

from .tiny import make_processor

MAX_GENES = 9


class ListSource:
    """Cells of random lengths in units of given sizes; it counts how often each unit is read."""

    vocab = [f"G{i}" for i in range(20)]
    panels = [np.arange(20)]
    facts = [CellFacts("B cell"), CellFacts("NK")]

    def __init__(self, sizes: list[int], seed: int = 0) -> None:
        self.unit_sizes, self.reads = np.array(sizes, dtype=np.int64), Counter()
        self._lengths = np.random.default_rng(seed).integers(1, 15, sum(sizes))
        self._limits = np.cumsum([0, *sizes])

    def read(self, unit: int) -> CellBlock:
        self.reads[unit] += 1
        cells = np.arange(self._limits[unit], self._limits[unit + 1])
        indptr = np.cumsum([0, *self._lengths[cells]])
        genes = np.concatenate([np.arange(n, dtype=np.uint16) for n in self._lengths[cells]])
        names = np.array([f"c{cell}" for cell in cells], dtype=object)
        facts = (cells % 2).astype(np.int32)
        return CellBlock(indptr, genes, np.ones(len(genes), np.uint32), np.zeros_like(facts), facts, names)


def names_of(batches) -> list[list[str]]:
    return [batch.cell_ids.tolist() for batch in batches]


def walk(stream: CellStream, num_workers: int) -> list[tuple[int, Place, list[str]]]:
    """The batches of all workers in turns, each with its worker and the place after it, in this process."""
    workers = [stream.walk(i, num_workers, Place(0, 0, 0)) for i in range(num_workers)]
    found, left = [], dict(enumerate(workers))
    while left:
        for i in list(left):
            item = next(left[i], None)
            if item is None:
                del left[i]
            else:
                found.append((i, item[0], item[1].cell_ids.tolist()))
    return found


unit_sizes = st.lists(st.integers(1, 12), min_size=1, max_size=12)


@given(unit_sizes, st.integers(1, 3), st.integers(1, 3), st.integers(1, 60), st.integers(1, 4), st.integers(0, 9))
def test_every_cell_comes_once_an_epoch_over_ranks_and_workers(sizes, ranks, workers, budget, per_window, seed):
    epochs = []
    for epoch in (0, 0, 1):
        batches = []
        for rank in range(ranks):
            stream = CellStream(
                ListSource(sizes),
                budget,
                MAX_GENES,
                seed=seed,
                units_per_window=per_window,
                rank=rank,
                world_size=ranks,
            )
            for worker in range(workers):
                for _, block in stream.walk(worker, workers, Place(epoch, 0, 0)):
                    tokens = np.minimum(block.lengths + 1, MAX_GENES)
                    assert len(block) == 1 or len(block) * tokens.max() <= budget
                    batches.append(block.cell_ids.tolist())
        assert sorted(chain(*batches)) == sorted(f"c{i}" for i in range(sum(sizes)))
        epochs.append(batches)
    assert epochs[0] == epochs[1]
    if sum(sizes) > 20:
        assert epochs[0] != epochs[2]


@given(unit_sizes, st.integers(1, 3), st.integers(5, 60), st.integers(1, 3), st.booleans(), st.data())
def test_a_worker_goes_on_from_any_place_without_reading_what_came_before(
    sizes, workers, budget, per_window, weighted, data
):
    source = ListSource(sizes)
    weights = np.random.default_rng(1).uniform(0, 3, sum(sizes)) if weighted else None
    stream = CellStream(source, budget, MAX_GENES, weights=weights, units_per_window=per_window)
    for worker in range(workers):
        whole = [(place, block.cell_ids.tolist()) for place, block in stream.walk(worker, workers, Place(0, 0, 0))]
        if not whole:
            continue
        stop = data.draw(st.integers(0, len(whole) - 1))
        source.reads.clear()
        rest = [(place, block.cell_ids.tolist()) for place, block in stream.walk(worker, workers, whole[stop][0])]
        assert rest == whole[stop + 1 :]
        num_windows = -(-len(range(worker, len(sizes), workers)) // per_window)
        left = num_windows - whole[stop][0].window
        assert sum(source.reads.values()) <= left * per_window


def test_what_is_drawn_for_a_cell_depends_on_epoch_and_cell_alone():
    def seeds_of_cells(ranks, budget, epoch, **options):
        seeds = {}
        for rank in range(ranks):
            stream = CellStream(
                ListSource([7] * 6), budget, MAX_GENES, lambda batch: batch, rank=rank, world_size=ranks, **options
            )
            stream.set_epoch(epoch)
            for batch in stream:
                for name, seed in zip(batch.cells.cell_ids, batch.seeds.tolist(), strict=True):
                    seeds.setdefault(name, []).append(seed)
                assert (batch.twins.facts_index == batch.cells.facts_index).all()
        return seeds

    one = seeds_of_cells(1, 30, 0)
    assert one == seeds_of_cells(2, 60, 0, units_per_window=2)
    other = seeds_of_cells(1, 30, 1)
    assert all(one[name] != other[name] for name in one)
    copies = seeds_of_cells(1, 30, 0, weights=np.full(42, 2.0))
    assert all(len(set(seeds)) == 2 and one[name][0] in seeds for name, seeds in copies.items())


def test_weights_are_the_mean_number_of_copies():
    weights = np.array([0.0, 0.25, 1.0, 2.5] * 10)
    stream = CellStream(ListSource([8] * 5), 50, MAX_GENES, weights=weights, units_per_window=2)
    times = Counter()
    for epoch in range(400):
        stream.set_epoch(epoch)
        now = Counter(name for names in names_of(stream) for name in names)
        for i, weight in enumerate(weights):
            assert now[f"c{i}"] in {int(weight), int(weight) + (weight % 1 > 0)}
        times += now
    for i, weight in enumerate(weights):
        # Five standard errors of 400 draws of the fraction.
        assert times[f"c{i}"] / 400 == pytest.approx(weight, abs=5 * 0.5 / 20 if weight % 1 else 0)


# Loaders


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_loader_gives_the_batches_of_the_stream_epoch_after_epoch(num_workers):
    def make():
        return CellStream(ListSource([9, 3, 7, 5]), 40, MAX_GENES, units_per_window=2)

    loader = StreamLoader(make(), num_workers)
    for epoch in range(2):
        stream = make()
        stream.set_epoch(epoch)
        assert names_of(loader) == names_of(stream)
    # torch's own loader takes the stream as well
    assert names_of(DataLoader(make(), batch_size=None)) == names_of(make())


@settings(max_examples=25)
@given(unit_sizes, st.integers(5, 40), st.data())
def test_a_loader_goes_on_with_the_very_next_batch(sizes, budget, data):
    def make():
        return StreamLoader(CellStream(ListSource(sizes), budget, MAX_GENES, units_per_window=2))

    whole = names_of(make())
    stop = data.draw(st.integers(0, len(whole)))
    loader = make()
    assert names_of(islice(loader, stop)) == whole[:stop]
    resumed = make()
    resumed.load_state_dict(loader.state_dict())
    assert names_of(resumed) == whole[stop:]


@pytest.mark.parametrize("endless", [False, True])
def test_two_workers_take_turns_and_a_stopped_run_keeps_them(endless):
    # Seven units: the second worker ends before the first.
    def make(context="fork"):
        stream = CellStream(ListSource([6, 9, 4, 7, 5, 8, 9]), 30, MAX_GENES, units_per_window=2, endless=endless)
        return StreamLoader(stream, 2, context)

    number = 60 if endless else None
    whole = names_of(islice(make(), number))
    if not endless:
        turns = walk(make().dataset, 2)
        assert whole == [names for _, _, names in turns]
        assert {worker for worker, _, _ in turns[-2:]} != {0, 1}
        assert sorted(chain(*whole)) == sorted(f"c{i}" for i in range(48))
    for stop in (0, 1, 4, len(whole) - 3, len(whole) - 1):
        loader = make()
        iterator = iter(loader)
        assert names_of(islice(iterator, stop)) == whole[:stop]
        resumed = make()
        resumed.load_state_dict(loader.state_dict())
        assert names_of(islice(resumed, number and number - stop)) == whole[stop:]


def test_two_ranks_of_two_workers_see_every_cell_once():
    seen = []
    for rank in range(2):
        stream = CellStream(ListSource([6, 9, 4, 7, 5, 8, 9]), 30, MAX_GENES, rank=rank, world_size=2)
        seen += chain(*names_of(StreamLoader(stream, 2, "fork")))
    assert sorted(seen) == sorted(f"c{i}" for i in range(48))


def test_spawned_workers_collate_the_same_batches():
    processor = make_processor()
    collator = ScMMGPTDataCollator(
        processor, CaptionWriter(Ontology()), np.full(63, 1 / 63), ("masked_expression",), layout="packed"
    )

    def make():
        return CellStream(ListSource([40] * 4), 150, MAX_GENES, collator, units_per_window=2)

    here, there = (list(StreamLoader(make(), *options)) for options in ((0,), (1, "spawn")))
    assert len(here) == len(there) > 8
    for one, two in zip(here, there, strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert sum(len(batch["cell_cu_seqlens"]) - 1 for batch in here) == 160


def test_a_state_of_another_stream_is_refused():
    def make(sizes=(5, 5), num_workers=0, **options):
        arguments = {"max_tokens": 40, "max_genes": MAX_GENES} | options
        return StreamLoader(CellStream(ListSource(list(sizes)), **arguments), num_workers)

    state = make().state_dict()
    for loader, message in (
        (make(num_workers=2), "num_workers was 0 and is 2"),
        (make(rank=1, world_size=2), "rank was 0 and is 1; world_size was 1 and is 2"),
        (make(max_tokens=50), "max_tokens was 40 and is 50"),
        (make(seed=3), "seed was 0 and is 3"),
        (make((5, 4)), "num_cells was 10 and is 9"),
        (make(weights=np.ones(10)), "weights was None"),
    ):
        with pytest.raises(ValueError, match=f"of another stream: {message}"):
            loader.load_state_dict(state)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "`max_tokens`=0: expected at least 1"),
        ({"rank": 2, "world_size": 2}, "`rank`=2: expected one of 0 to 1"),
        ({"weights": np.ones(3)}, r"`weights` has the shape \(3,\): .* of 10 cells"),
        ({"weights": -np.ones(10)}, "0 or more"),
    ],
)
def test_impossible_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        CellStream(ListSource([5, 5]), **{"max_tokens": 40, "max_genes": MAX_GENES} | options)


def test_an_endless_worker_without_cells_says_so():
    stream = CellStream(ListSource([5, 5]), 40, MAX_GENES, endless=True, rank=2, world_size=3)
    with pytest.raises(ValueError, match=r"Worker 0 of 1 on rank 2 of 3 has no cells.*Use fewer workers"):
        next(iter(stream))


def test_no_more_than_a_window_is_held():
    source = ListSource([4] * 30)
    stream = iter(CellStream(source, 20, MAX_GENES, units_per_window=3))
    next(stream)
    assert sum(source.reads.values()) == 3
