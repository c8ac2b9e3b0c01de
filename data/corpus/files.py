"""Files that are whole or not there, hashes, and the lock of a folder."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .layout import LOCK

_BLOCK = 1 << 22
PART = ".part"


@contextlib.contextmanager
def room_on_disk(path: Path) -> Iterator[None]:
    """Says of a full disk which folder it is and what to do, as an `OSError`."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC or "No space left" in str(error):
            message = (
                f"The disk is full: {path} could not be written. Make room in {path.parent} and run the same command "
                "again; what is done is kept"
            )
            raise OSError(errno.ENOSPC, message) from error
        raise


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """
    Gives a name to write to; the file gets its own name when it is complete and on the disk.

    A process killed at any moment leaves the old file or the new one, never a part under the file's own name. The
    name to write to is nobody else's, so two processes that make the same file do not meet.

    Raises:
        OSError: the disk is full; the message names the folder and the cure, and nothing half-written is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    try:
        with room_on_disk(path):
            yield part
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Writes JSON, the same bytes for the same content."""
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Reads JSON."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, or of all files below a folder with their names."""
    digest = hashlib.sha256()
    files = sorted(child for child in path.rglob("*") if child.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(str(file.relative_to(path)).encode() + b"\0")
        with open(file, "rb") as content:
            while block := content.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_dir():
        return sum(child.stat().st_size for child in path.rglob("*") if child.is_file())
    return path.stat().st_size


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """
    Keeps a second build out of a folder. The lock is the kernel's: it goes with the process, however that ends.

    Raises:
        ValueError: another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"`output`: another process is building a corpus in {folder}. Wait for it, or choose another folder."
            ) from None
        yield
