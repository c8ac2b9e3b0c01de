"""What happens to `scmmgpt data build` under kill -9, a full disk, and damage, on real cells.

    sudo python benchmarks/faults.py --data $SCMMGPT_DATA --kills 20

Prints a table and writes benchmarks/results/faults.json. Only the full disk needs root, to mount a small tmpfs.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pyarrow.parquet as pq

from scmmgpt.data.corpus import BuildSettings, build_corpus, verify_corpus

RESULTS = Path(__file__).parent / "results" / "faults.json"
FILES = ("pbmc3k_10x", "pbmc_kang_ifnb2800", "bone_marrow_accordion_unlabelled", "pbmc_zheng_sorted_scminer")
# Many small tasks: a kill hits a different one each time.
SETTINGS = BuildSettings(cells_per_chunk=512, cells_per_shard=1024)


def main() -> None:
    """Does each harm in turn and reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of real studies, with h5ad/ in it")
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    sources = [str(options.data / "h5ad" / f"{name}.h5ad") for name in FILES]
    with tempfile.TemporaryDirectory() as folder:
        whole, harmed, small = (Path(folder) / name for name in ("whole", "harmed", "small"))
        start = time.perf_counter()
        build(sources, whole)
        seconds = time.perf_counter() - start
        rows = [
            ("undisturbed", f"{seconds:.1f} s", all_cells_once(sources, whole)),
            ("kill -9", kill(sources, harmed, options.kills, seconds), same(whole, harmed)),
        ]
        if os.geteuid() == 0:
            rows.append(("full disk", *fill(sources, whole, small)))
        rows.append(("damage", damage(sources, harmed), same(whole, harmed)))
    print("\n| harm | what happened | result |\n|---|---|---|")
    for row in rows:
        print(f"| {' | '.join(row)} |")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(
        json.dumps([dict(zip(("harm", "found", "result"), row, strict=True)) for row in rows], indent=1)
    )


def build(sources: list[str], folder: Path) -> None:
    """A build without a word."""
    build_corpus(sources, folder, SETTINGS, progress=False)


def content(folder: Path) -> dict[str, str]:
    """SHA-256 of every file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def same(whole: Path, harmed: Path) -> str:
    """Whether two corpora are the same bytes."""
    assert content(whole) == content(harmed), "the bytes differ"
    return f"all {len(content(whole))} files byte-identical to the undisturbed build"


def all_cells_once(sources: list[str], folder: Path) -> str:
    """Whether the ids in the shards are those of the sources, each once."""
    found = [name for path in folder.glob("*/shard-*.parquet") for name in pq.read_table(path)["cell_id"].to_pylist()]
    wanted: list[str] = []
    for source in sources:
        obs = anndata.read_h5ad(source, backed="r").obs
        wanted += (obs["dataset_id"].astype(str) + ":" + obs.index.astype(str)).tolist()
    assert sorted(found) == sorted(wanted), "a cell was lost or doubled"
    return f"{len(found):,} cells, each once"


def kill(sources: list[str], folder: Path, kills: int, seconds: float) -> str:
    """Kills builds at random moments, one after another in the same folder, and lets the last one end."""
    rng = np.random.default_rng(0)
    phases: dict[str, int] = {}
    context = multiprocessing.get_context("fork")
    ended = 0
    for _ in range(kills):
        process = context.Process(target=build, args=(sources, folder))
        process.start()
        time.sleep(rng.uniform(0, seconds / 4))  # a quarter: progress is kept, so later runs have less to do
        process.kill()
        process.join()
        phase = state(folder)
        phases[phase] = phases.get(phase, 0) + 1
        if process.exitcode == 0:
            ended += 1
            subprocess.run(["rm", "-r", str(folder)], check=True)
    build(sources, folder)
    return f"{kills} kills ({ended} after the end, then begun anew); left behind: {phases}"


def state(folder: Path) -> str:
    """How far a build came."""
    for name, pattern in (("finished", "manifest.json"), ("shards", "*/shard-*"), ("chunks", ".work/chunk-*")):
        if any(folder.glob(pattern)):
            return name
    return "survey" if any(folder.glob(".work/*")) else "nothing"


def fill(sources: list[str], whole: Path, folder: Path) -> tuple[str, str]:
    """Builds on a disk that grows until it is large enough."""
    errors = 0
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        for size in range(1, 200, 4):
            subprocess.run(["mount", "-o", f"remount,size={size}m", str(folder)], check=True)
            try:
                build(sources, folder / "corpus")
                break
            except OSError as error:
                errors += 1
                if "The disk is full" not in str(error) or "Make room in" not in str(error):
                    raise
            assert not list(folder.rglob("*.part")), "a part of a file is left"
        found = f"{errors} times full while growing to {size} MB, each named folder and cure"
        return found, same(whole, folder / "corpus")
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def damage(sources: list[str], folder: Path) -> str:
    """Cuts a shard, flips a bit of another, and lets a build mend both."""
    first, second = sorted(folder.glob("train/shard-*"))[:2]
    first.write_bytes(first.read_bytes()[:-1000])
    second.write_bytes(second.read_bytes()[:500] + bytes([second.read_bytes()[500] ^ 1]) + second.read_bytes()[501:])
    message = refusal(lambda: verify_corpus(folder, progress=False))
    assert all(path.name in message for path in (first, second)), message
    build(sources, folder)
    return "a cut and a changed shard, both named by verify"


def refusal(action: Callable[[], object]) -> str:
    """The message of the error that an action must end with."""
    try:
        action()
    except ValueError as error:
        return str(error)
    raise AssertionError("no error")


if __name__ == "__main__":
    main()
