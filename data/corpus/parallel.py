"""Tasks on this process, on processes of this machine, or on a Dask cluster: one interface, `map`.

Dask rather than Ray: its client offers the executor of `concurrent.futures`, so the same lines drive both.
"""

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from tqdm import tqdm

Run = Callable[..., None]


@contextlib.contextmanager
def runner(workers: int, dask: str | None, progress: bool) -> Iterator[Run]:
    """
    Gives a function `run(title, task, arguments, total, done)` that calls a task with each of `arguments` and counts
    the cells that it returns; `done` of `total` cells are done already. Without a `total` it counts sources.

    Args:
        workers (`int`): processes; 1 works in this one.
        dask (`str`, *optional*): address of a Dask scheduler, whose workers see the same file system.
        progress (`bool`): show bars.
    """
    if workers < 1:
        raise ValueError(f"`workers` is {workers}: pass 1 or more.")
    with _mapper(workers, dask) as mapper:

        def run(
            title: str, task: Callable[..., int], arguments: Sequence[tuple], total: int = 0, done: int = 0
        ) -> None:
            if not arguments:
                return
            size, unit = (total, " cells") if total else (len(arguments), " sources")
            with tqdm(
                total=size, initial=done, desc=title, unit=unit, unit_scale=bool(total), disable=not progress
            ) as bar:
                for cells in mapper(task, *zip(*arguments, strict=True)):
                    bar.update(cells if total else 1)

        try:
            yield run
        except BrokenProcessPool as error:
            raise OSError(
                "A worker process was killed, most likely for want of memory. Run the same command again with fewer "
                "`workers`; what is done is kept."
            ) from error


@contextlib.contextmanager
def _mapper(workers: int, dask: str | None) -> Iterator[Callable[..., Iterator[Any]]]:
    if dask is not None:
        from dask.distributed import Client

        with Client(dask) as client:
            yield client.get_executor(pure=False).map
    elif workers == 1:
        yield map
    else:
        # Forked processes would share the threads and locks of torch and HDF5.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
            yield pool.map


def _end_with_parent() -> None:
    """A pool whose process was killed would wait for work for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
