"""Training batches streamed from a source of any size: shuffled, dealt to ranks and workers, cut by a token budget.

Which cells come when depends on the seed, the epoch and the layout of ranks and workers, so that a stopped run can go
on with the very next cell. Must not import the model.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .batching import cut_batches
from .blocks import CellBlock
from .dataset import CellBatch, Twins
from .draws import hash64
from .sources import CellSource


class Place(NamedTuple):
    """How far one worker has come: its epoch, window of that epoch, and batch of that window that comes next."""

    epoch: int
    window: int
    batch: int


@dataclass(eq=False)
class CellStream(IterableDataset):
    """
    Batches of cells of like length, each within a budget of tokens.

    The units of the source are permuted in each epoch and dealt in turn to ranks, and by each rank to its workers. A
    worker reads a *window* of several units, shuffles its cells and cuts them into batches. Every cell comes once in
    an epoch, or as often as its weight says.

    Args:
        source (`CellSource`): the cells.
        max_tokens (`int`): most tokens of a batch, padding included; a longer cell is a batch of its own.
        max_genes (`int`): most tokens of a cell, `<cls>` included; the feature extractor's own.
        collator (`Callable[[CellBatch], Any]`, *optional*): makes the batches; without it they are [`CellBlock`]s.
        seed (`int`): of everything that is drawn, 0 or more.
        weights (`np.ndarray` of shape `(C,)`, *optional*): how often each cell comes in an epoch, on average: `floor(w
            + u)` times, with u uniform in [0, 1). See [`sampling_weights`].
        units_per_window (`int`): units that are read and shuffled together.
        endless (`bool`): go on with the next epoch, worker by worker. For training in several ranks, which would wait
            for each other for ever if one had fewer batches than another.
        rank, world_size (`int`, *optional*): which of how many processes this is, as in `datasets`'
            `split_dataset_by_node`; those of `torch.distributed`, or the only one, when absent.

    Raises:
        ValueError: when an argument is impossible, or does not fit the source.
    """

    source: CellSource
    max_tokens: int
    max_genes: int
    collator: Callable[[CellBatch], Any] | None = None
    seed: int = 0
    weights: np.ndarray | None = None
    units_per_window: int = 16
    endless: bool = False
    rank: int | None = None
    world_size: int | None = None

    def __post_init__(self) -> None:
        self.epoch = 0
        if self.world_size is None:
            in_group = torch.distributed.is_available() and torch.distributed.is_initialized()
            self.world_size = torch.distributed.get_world_size() if in_group else 1
            self.rank = torch.distributed.get_rank() if in_group else 0
        if self.rank is None or not 0 <= self.rank < self.world_size:
            raise ValueError(f"`rank`={self.rank}: expected one of 0 to {self.world_size - 1} (`world_size` - 1).")
        for name, least in (("max_tokens", 1), ("max_genes", 2), ("seed", 0), ("units_per_window", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"`{name}`={getattr(self, name)}: expected at least {least}.")
        self._first_cell = np.cumsum([0, *self.source.unit_sizes])
        if self.weights is not None:
            self.weights = np.asarray(self.weights, dtype=np.float32)
            if self.weights.shape != (self.num_cells,) or not (np.isfinite(self.weights) & (self.weights >= 0)).all():
                raise ValueError(
                    f"`weights` has the shape {self.weights.shape}: expected a finite number, 0 or more, for each of "
                    f"{self.num_cells} cells. See `sampling_weights`."
                )

    @property
    def num_cells(self) -> int:
        """Cells of the source, on all ranks together."""
        return int(self._first_cell[-1])

    def set_epoch(self, epoch: int) -> None:
        """The epoch that an iteration begins with; each one draws afresh."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        info = get_worker_info()
        worker, num_workers = (info.id, info.num_workers) if info else (0, 1)
        for _, batch in self.walk(worker, num_workers, Place(self.epoch, 0, 0)):
            yield batch

    def walk(self, worker: int, num_workers: int, place: Place) -> Iterator[tuple[Place, Any]]:
        """The batches of one worker from `place` on, each with the place after it."""
        last_epoch = place.epoch
        while self.endless or place.epoch == last_epoch:
            units = self._units(place.epoch, worker, num_workers)
            starts = range(0, len(units), self.units_per_window)
            found = place.window > 0
            for window in range(place.window, len(starts)):
                batches = self._window(place.epoch, units[starts[window] :][: self.units_per_window])
                for batch in range(place.batch, len(batches)):
                    found = True
                    is_last = batch + 1 == len(batches)
                    after = Place(place.epoch, window + 1, 0) if is_last else Place(place.epoch, window, batch + 1)
                    yield after, self._collate(batches[batch])
                place = Place(place.epoch, window + 1, 0)
            if self.endless and not found:
                raise ValueError(
                    f"Worker {worker} of {num_workers} on rank {self.rank} of {self.world_size} has no cells: the "
                    f"source has {len(self.source.unit_sizes)} units. Use fewer workers, or weights above 0."
                )
            place = Place(place.epoch + 1, 0, 0)

    def _units(self, epoch: int, worker: int, num_workers: int) -> np.ndarray:
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.source.unit_sizes))
        return order[self.rank :: self.world_size][worker::num_workers]

    def _window(self, epoch: int, units: np.ndarray) -> list[CellBatch]:
        """The batches of some units, read together."""
        # One more than the number of the unit: a seed that ends in 0 equals the shorter one without it.
        rng = np.random.default_rng([self.seed, epoch, int(units[0]) + 1])
        block = CellBlock.concatenate([self.source.read(int(unit)) for unit in units])
        numbers = np.concatenate([np.arange(self._first_cell[unit], self._first_cell[unit + 1]) for unit in units])
        rows, copy = np.arange(len(block)), 0
        if self.weights is not None:
            weights = self.weights[numbers]
            copies = np.floor(weights + rng.random(len(weights))).astype(np.int64)
            block, numbers, copies = block.select(np.flatnonzero(weights)), numbers[weights > 0], copies[weights > 0]
            rows = np.repeat(np.arange(len(block)), copies)
            copy = np.arange(len(rows)) - np.repeat(np.cumsum(copies) - copies, copies)
        seeds = hash64(self.seed, epoch, numbers[rows] + copy * self.num_cells)
        twin_rows = Twins(block.facts_index).draw(rows, seeds)
        tokens = np.minimum(block.lengths + 1, self.max_genes)[rows]
        tables = self.source.panels, self.source.facts, int(hash64(self.seed, epoch, int(units[0])))
        return [
            CellBatch(block, rows[cells], twin_rows[cells], seeds[cells], *tables)
            for cells in cut_batches(tokens, self.max_tokens, rng)
        ]

    def _collate(self, batch: CellBatch) -> Any:
        return batch.cells if self.collator is None else self.collator(batch)


class StreamLoader:
    """
    Batches of a [`CellStream`] from worker processes, with the place of each, so that a run can stop and go on.

    The workers take turns, so that the order of the batches does not depend on their speed. What `state_dict` says
    after a batch has been received leads to the very next one; of what came before only the rest of a window is read
    again.

    Args:
        stream (`CellStream`): the batches.
        num_workers (`int`): processes that read; 0 reads in this one.
        multiprocessing_context (`str`, *optional*): "fork", "spawn" or "forkserver"; Python's own choice when absent.
    """

    def __init__(self, stream: CellStream, num_workers: int = 0, multiprocessing_context: str | None = None) -> None:
        self.dataset, self.num_workers = stream, num_workers
        self._context = multiprocessing_context
        self._turn = 0
        self._places: list[Place] | None = None

    def __iter__(self) -> Iterator[Any]:
        num_workers = max(1, self.num_workers)
        if self._places is None:
            self._places = [Place(self.dataset.epoch, 0, 0)] * num_workers
        turns = _Turns(self.dataset, self._places, self._turn)
        loader = DataLoader(
            turns,
            batch_size=None,
            num_workers=self.num_workers,
            multiprocessing_context=self._context,
            # Else it would draw from torch's own, and a model with dropout would learn otherwise after a stop.
            generator=torch.Generator(),
        )
        ended = 0
        for worker, place, batch in loader:
            self._turn = (worker + 1) % num_workers
            ended = ended + 1 if place is None else 0
            if ended == num_workers:
                break
            if place is not None:
                self._places[worker] = place
                yield batch
        # The next iteration is the next epoch.
        self.dataset.set_epoch(max(place.epoch for place in self._places) + 1)
        self._places, self._turn = None, 0

    def state_dict(self) -> dict[str, Any]:
        """Where the run is: the place of every worker of this rank, whose turn it is, and what must be the same."""
        places = self._places or [Place(self.dataset.epoch, 0, 0)] * max(1, self.num_workers)
        return {"places": [list(place) for place in places], "turn": self._turn, "layout": self._layout()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """
        Goes on where a `state_dict` was taken.

        Raises:
            ValueError: when the cells, the seed, the ranks, the workers or the batches are others than they were.
        """
        layout = self._layout()
        differences = [
            f"{name} was {state['layout'].get(name)} and is {value}"
            for name, value in layout.items()
            if state["layout"].get(name) != value
        ]
        if differences:
            raise ValueError(
                f"`state` is of another stream: {'; '.join(differences)}. Go on with what it was begun with, or start "
                "again."
            )
        self._places, self._turn = [Place(*place) for place in state["places"]], state["turn"]

    def _layout(self) -> dict[str, Any]:
        stream = self.dataset
        names = ("seed", "rank", "world_size", "max_tokens", "max_genes", "units_per_window")
        sizes = {"num_units": len(stream.source.unit_sizes), "num_cells": stream.num_cells}
        weights = None if stream.weights is None else hashlib.sha256(stream.weights.tobytes()).hexdigest()
        layout = {name: getattr(stream, name) for name in names} | sizes
        return layout | {"weights": weights, "num_workers": self.num_workers}


@dataclass(eq=False)
class _Turns(IterableDataset):
    """
    Every worker's batches as `(worker, place after it, batch)`, and `(worker, None, None)` for ever after its last,
    so that the workers keep their turns, also when some have ended. Process 0 has the first turn of an iteration.
    """

    stream: CellStream
    places: list[Place]
    turn: int

    def __iter__(self) -> Iterator[tuple[int, Place | None, Any]]:
        info = get_worker_info()
        process, num_workers = (info.id, info.num_workers) if info else (0, 1)
        worker = (process + self.turn) % num_workers
        for place, batch in self.stream.walk(worker, num_workers, self.places[worker]):
            yield worker, place, batch
        while True:
            yield worker, None, None


__all__ = ["CellStream", "Place", "StreamLoader"]
