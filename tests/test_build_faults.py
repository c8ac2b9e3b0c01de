"""A build that is killed, starved or tampered with ends with the bytes of an undisturbed one, or says what to do."""

import errno
import multiprocessing
import os
import signal
import time

import anndata
import pytest

from scmmgpt.data.corpus import BuildSettings, build_corpus, verify_corpus
from scmmgpt.data.corpus.files import locked

from .corpora import content, write_sources

SETTINGS = BuildSettings(cells_per_chunk=16, cells_per_shard=40)


def build(sources, output, settings=SETTINGS, **options):
    return build_corpus(sources, output, settings, progress=False, **options)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    paths = write_sources(folder)
    by_columns = anndata.read_h5ad(paths[1])
    by_columns.X = by_columns.X.tocsc()
    by_columns.write_h5ad(paths[1])
    anndata.read_h5ad(paths[0])[20:40].write_h5ad(folder / "z.h5ad")  # cells that are there already
    return [*paths, str(folder / "z.h5ad")]


@pytest.fixture(scope="module")
def undisturbed(sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed") / "corpus"
    build(sources, folder)
    return content(folder)


def _build_until_file(sources, folder, number):
    """Builds, and kills its own process when the `number`-th file is about to get its name."""
    replace, calls = os.replace, 0

    def deadly(*arguments):
        nonlocal calls
        calls += 1
        if calls == number:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*arguments)

    os.replace = deadly
    build(sources, folder)


def test_killed_at_any_file(tmp_path, sources, undisturbed):
    """The n-th run dies at its n-th file: all phases are cut, each many times, on top of one another."""
    context = multiprocessing.get_context("fork")
    deaths = 0
    for number in range(1, 60, 4):
        process = context.Process(target=_build_until_file, args=(sources, tmp_path / "corpus", number))
        process.start()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        deaths += 1
        with pytest.raises(ValueError, match="no finished corpus"):
            verify_corpus(tmp_path / "corpus", progress=False)
    assert deaths >= 4
    build(sources, tmp_path / "corpus")
    assert content(tmp_path / "corpus") == undisturbed


def test_killed_at_random_moments(tmp_path, sources, undisturbed, rng):
    context = multiprocessing.get_context("fork")
    for _ in range(4):
        process = context.Process(target=build, args=(sources, tmp_path / "corpus"))
        process.start()
        time.sleep(rng.uniform(0.05, 1.0))
        process.kill()
        process.join()
    build(sources, tmp_path / "corpus")
    assert content(tmp_path / "corpus") == undisturbed


def test_any_number_of_workers(tmp_path, sources, undisturbed):
    """Two processes make the same bytes as one."""
    build(sources, tmp_path / "corpus", workers=2)
    assert content(tmp_path / "corpus") == undisturbed


def test_dask(tmp_path, sources, undisturbed):
    """So do the two workers of a Dask cluster (in this process: others would spend the test on imports)."""
    distributed = pytest.importorskip("dask.distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        build(sources, tmp_path / "corpus", dask=cluster.scheduler_address)
    assert content(tmp_path / "corpus") == undisturbed


def test_damage_is_found_and_mended(tmp_path, sources, undisturbed):
    build(sources, tmp_path)
    *damaged, untouched = sorted(tmp_path.glob("*/shard-*.parquet"))[:4]
    whole = [path.read_bytes() for path in damaged]
    damaged[0].write_bytes(whole[0][:-9])
    damaged[1].write_bytes(whole[1][:99] + bytes([whole[1][99] ^ 1]) + whole[1][100:])
    damaged[2].unlink()
    with pytest.raises(ValueError, match="Run the same build again") as error:
        verify_corpus(tmp_path, progress=False)
    for path, harm in zip(damaged, (f"{len(whole[0]) - 9} bytes instead of", "its SHA-256", "missing"), strict=True):
        assert f"{path}: {harm}" in str(error.value)
    written = untouched.stat().st_mtime_ns
    build(sources, tmp_path)
    assert content(tmp_path) == undisturbed
    assert untouched.stat().st_mtime_ns == written


def test_full_disk(tmp_path, sources, undisturbed, monkeypatch):
    """Wherever the room ends, the error names the folder and the cure, no part of a file is left, and it goes on."""
    fsync, calls = os.fsync, 0

    def full(descriptor):
        nonlocal calls
        calls += 1
        if calls % 9 == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    messages = []
    while content(tmp_path) != undisturbed and len(messages) < 30:
        try:
            build(sources, tmp_path)
        except OSError as error:
            messages.append(str(error))
        assert not list(tmp_path.rglob("*.part"))
    assert 3 < len(messages) < 30
    assert all(f"The disk is full: {tmp_path}" in message for message in messages)
    assert all("Make room in" in message for message in messages)


def test_source_changed_between_runs(tmp_path, sources, undisturbed):
    paths = write_sources(tmp_path / "sources")
    process = multiprocessing.get_context("fork").Process(
        target=_build_until_file, args=(paths, tmp_path / "corpus", 20)
    )
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = (tmp_path / "sources" / "c.h5ad").read_bytes()
    changed = anndata.read_h5ad(paths[2])
    changed.X = changed.X * 2
    changed.write_h5ad(paths[2])
    with pytest.raises(ValueError, match=r"c\.h5ad changed since.*Put the old file back, or delete .*corpus"):
        build(paths, tmp_path / "corpus")
    (tmp_path / "sources" / "c.h5ad").write_bytes(before)
    build(paths, tmp_path / "corpus")
    changed.write_h5ad(paths[2])
    with pytest.raises(ValueError, match=r"c\.h5ad changed since"):
        build(paths, tmp_path / "corpus")


def test_other_build_in_the_folder(tmp_path, sources):
    with locked(tmp_path), pytest.raises(ValueError, match="another process is building"):
        build(sources, tmp_path)
    build(sources, tmp_path)
    with pytest.raises(ValueError, match=r"other settings: seed was 0, is 1"):
        build(sources, tmp_path, BuildSettings(seed=1, cells_per_chunk=16, cells_per_shard=40))
    with pytest.raises(ValueError, match="other sources"):
        build(sources[:3], tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"holds thesis\.tex.*empty folder"):
        build(sources, tmp_path / "mine")
