"""Whether a corpus is what its manifest says."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from .files import read_json, sha256_of
from .layout import FORMAT, MANIFEST, WORK


def read_manifest(folder: Path) -> dict[str, Any]:
    """
    The manifest of a finished corpus.

    Raises:
        ValueError: there is none, or it is of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        cure = (
            "Run the same build again: it goes on where it stopped" if (folder / WORK).is_dir() else "Build one first"
        )
        raise ValueError(f"`corpus`: {folder} holds no finished corpus, for there is no {MANIFEST}. {cure}.")
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise ValueError(f"`corpus`: {path} is damaged ({error}). Delete it and run the same build again.") from error
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"`corpus`: {folder} has format {manifest['format']}, expected {FORMAT}. Build it again with this version."
        )
    return manifest


def damaged_files(folder: Path, manifest: dict[str, Any], progress: bool = False) -> dict[str, str]:
    """Path below the corpus of each file that is not as the manifest says, and what is wrong."""
    files = manifest["files"] | manifest["shards"]
    damaged = {}
    total = sum(record["bytes"] for record in files.values())
    with tqdm(total=total, desc="verify", unit="B", unit_scale=True, disable=not progress) as bar:
        for name, record in files.items():
            path = folder / name
            if not path.is_file():
                damaged[name] = "missing"
            elif path.stat().st_size != record["bytes"]:
                damaged[name] = f"{path.stat().st_size} bytes instead of {record['bytes']}"
            elif sha256_of(path) != record["sha256"]:
                damaged[name] = "its SHA-256 is another"
            bar.update(record["bytes"])
    return damaged


def verify_corpus(folder: str | Path, progress: bool = True) -> dict[str, Any]:
    """
    Checks every file of a corpus against its manifest, and that the manifest's counts add up.

    Args:
        folder (`str` or `Path`): the corpus.
        progress (`bool`): show a bar.

    Returns:
        `dict`: the manifest.

    Raises:
        ValueError: something is missing, cut off or changed; the message names the files and the cure.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    damaged = damaged_files(folder, manifest, progress)
    if damaged:
        named = "; ".join(f"{folder / name}: {what}" for name, what in list(damaged.items())[:5])
        raise ValueError(
            f"`corpus`: {len(damaged)} file(s) of {folder} are damaged: {named}. Run the same build again: it writes "
            "these files anew and keeps the others."
        )
    cells = manifest["cells"]
    rows = sum(pq.read_metadata(folder / name).num_rows for name in manifest["shards"])
    lost = cells["in"] - sum(number for name, number in cells.items() if name != "in")
    if lost or rows != cells["out"]:
        raise ValueError(
            f"`corpus`: the counts of {folder / MANIFEST} do not add up: {cells}, and {rows} cells in the shards. "
            "Delete the folder and build it again."
        )
    return manifest
