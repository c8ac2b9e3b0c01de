"""Builds a corpus: survey the sources, plan, read them chunk by chunk, write the shards, and last the manifest.

Every step leaves whole files and skips what is there. A build that was killed goes on, and ends with the same bytes.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...feature_extraction_scmmgpt import ScMMGPTFeatureExtractor
from .files import PART, locked, read_json, room_on_disk, sha256_of, write_json
from .find import find_sources, open_source
from .genes import match_source, union_of_genes
from .layout import (
    FACTS,
    LOCK,
    MANIFEST,
    PANELS,
    PROCESSOR,
    WORK,
    by_rows_path,
    chunk_path,
    matches_path,
    plan_path,
    shard_name,
    shard_record_path,
    survey_path,
)
from .manifest import make_manifest, package_versions
from .parallel import Run, runner
from .plan import Plan, make_plan
from .settings import BuildSettings
from .sources import SourceSpec
from .survey import survey_source
from .tasks import turn_source, write_chunk, write_shard
from .verify import damaged_files, read_manifest

logger = logging.get_logger(__name__)


def build_corpus(
    sources: Sequence[str],
    output: str | Path,
    settings: BuildSettings | None = None,
    workers: int = 1,
    dask: str | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """
    Makes a corpus of sharded, shuffled cells, or goes on with one.

    Args:
        sources (`Sequence[str]`): `.h5ad` files, globs, folders, SOMA experiments, or `census:homo_sapiens`.
        output (`str` or `Path`): folder of the corpus; new, or that of an unfinished or damaged build of the same
            sources and settings.
        settings ([`BuildSettings`], *optional*): what to take, and how to split it.
        workers (`int`): processes.
        dask (`str`, *optional*): address of a Dask scheduler to work on instead. Its workers see the same files; pass
            absolute paths.
        progress (`bool`): show bars.

    Returns:
        `dict`: the manifest.

    Raises:
        ValueError: a source is refused or has changed, settings are others than those of the unfinished build, or
            another process builds here.
        OSError: the disk is full.
    """
    output, settings = Path(output).resolve(), settings or BuildSettings()
    specs = find_sources(sources, settings)
    begun = {
        "packages": package_versions(),
        "settings": settings.to_dict() | {"genes_sha256": _hash_of_genes(settings.genes)},
        "sources": [spec.to_dict() for spec in specs],
    }
    with locked(output), runner(workers, dask, progress) as run:
        stamps = _stamps(specs)
        if _begin(output, begun, specs, run, progress):
            return read_manifest(output)
        plan, refused = _plan(output, specs, settings, run)
        _write_shards(output, plan, settings, run)
        manifest = make_manifest(output, begun, plan, refused)
        changed = [path for path, stamp in _stamps(specs).items() if stamps[path] != stamp]
        if changed:
            raise ValueError(_changed(output, changed))
        write_json(output / MANIFEST, manifest)
        shutil.rmtree(output / WORK)
    return manifest


def _hash_of_genes(genes: str | None) -> str | None:
    if genes is None:
        return None
    folder = Path(genes)
    found = [folder / name for name in ("processor_config.json", "preprocessor_config.json")]
    found = [path for path in found if path.is_file()]
    if not found:
        raise ValueError(f"`genes`: {folder} holds no saved feature extractor, processor or model. Make one first.")
    return sha256_of(found[0])


def _stamps(specs: list[SourceSpec]) -> dict[str, tuple[int, int]]:
    """Size and time of every file: what changes while it is read would be missed by a hash that was taken before."""
    stats = {spec.location: Path(spec.location).stat() for spec in specs if spec.kind == "h5ad"}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


def _changed(output: Path, paths: list[str]) -> str:
    return (
        f"`sources`: {', '.join(paths)} changed since the build in {output} began, so old and new cells would be "
        f"mixed. Put the old file back, or delete {output} and build again."
    )


def _begin(output: Path, begun: dict[str, Any], specs: list[SourceSpec], run: Run, progress: bool) -> bool:
    """Whether the corpus is there already. Otherwise the folder is left ready to go on with."""
    for part in output.rglob(f".*{PART}"):
        shutil.rmtree(part) if part.is_dir() else part.unlink()
    if (output / MANIFEST).is_file():
        manifest = read_manifest(output)
        _same_build(output, manifest, begun)
        known = {report["name"]: report["sha256"] for report in manifest["source_reports"]}
        known = [(output, spec, known[spec.name]) for spec in specs if spec.name in known]
        run("check sources", _same_source, known)
        damaged = damaged_files(output, manifest, progress)
        if not damaged:
            shutil.rmtree(output / WORK, ignore_errors=True)  # where a kill came after the manifest
            return True
        logger.warning(f"Writing {len(damaged)} damaged file(s) of {output} again: {', '.join(damaged)}")
        _undo(output, manifest, damaged, begun)
    elif plan_path(output).is_file():
        _same_build(output, read_json(plan_path(output)), begun)
        surveys = {spec: survey_path(output, number) for number, spec in enumerate(specs)}
        surveyed = {spec: read_json(path) for spec, path in surveys.items() if path.is_file()}
        known = [(output, spec, found["sha256"]) for spec, found in surveyed.items() if "sha256" in found]
        run("check sources", _same_source, known)
    else:
        strangers = sorted(path.name for path in output.iterdir() if path.name not in (LOCK, WORK))
        if strangers:
            raise ValueError(f"`output`: {output} holds {', '.join(strangers[:5])}. Choose a new or empty folder.")
        write_json(plan_path(output), begun)
    return False


def _same_build(output: Path, before: dict[str, Any], begun: dict[str, Any]) -> None:
    """Refuses to mix two builds."""
    for part in ("settings", "packages"):
        old, new = before[part], begun[part]
        other = [
            f"{name} was {old.get(name)!r}, is {new.get(name)!r}" for name in new if old.get(name) != new.get(name)
        ]
        if other:
            raise ValueError(
                f"`output`: the build in {output} began with other {part}: {'; '.join(other)}. Use the same, or "
                "another folder."
            )
    if before["sources"] != begun["sources"]:
        old, new = ({spec["location"] for spec in specs["sources"]} for specs in (before, begun))
        raise ValueError(
            f"`sources`: the build in {output} began with other sources: without {sorted(new - old)[:3]}, with "
            f"{sorted(old - new)[:3]}. Use the same in the same order, or another folder."
        )


def _same_source(output: Path, spec: SourceSpec, sha256: str) -> int:
    if open_source(spec).fingerprint()[0] != sha256:
        raise ValueError(_changed(output, [spec.location]))
    return 1


def _undo(output: Path, manifest: dict[str, Any], damaged: dict[str, str], begun: dict[str, Any]) -> None:
    """Makes an unfinished build of a damaged corpus: the shards that are whole need not be written again."""
    for split, names in _by_split(manifest).items():
        for shard, name in enumerate(names):
            if name not in damaged:
                write_json(shard_record_path(output, split, shard), manifest["shards"][name])
    for name in damaged:
        (output / name).unlink(missing_ok=True)
    write_json(plan_path(output), begun)
    (output / MANIFEST).unlink()


def _by_split(manifest: dict[str, Any]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for name in manifest["shards"]:
        splits.setdefault(name.partition("/")[0], []).append(name)
    return splits


def _plan(output: Path, specs: list[SourceSpec], settings: BuildSettings, run: Run) -> tuple[Plan, dict[str, str]]:
    """What is to be written, and why some sources are left out."""
    try:
        taken, refused = _survey(output, specs, settings, run)
        extractor = _write_processor(output, settings, taken)
        taken, unmatched = _match(output, specs, taken, settings, run)
        return make_plan(output, specs, taken, extractor, settings), refused | unmatched
    except ValueError:
        # The cure is another setting or a changed source, so nothing of this look can be gone on with.
        for name in (WORK, PROCESSOR):
            shutil.rmtree(output / name, ignore_errors=True)
        for name in (FACTS, PANELS):
            (output / name).unlink(missing_ok=True)
        raise


def _survey(
    output: Path, specs: list[SourceSpec], settings: BuildSettings, run: Run
) -> tuple[list[int], dict[str, str]]:
    """Numbers of the sources that can be used, and why the others cannot."""
    todo = [n for n in range(len(specs)) if not survey_path(output, n).is_file()]
    run("look at sources", survey_source, [(output, n, specs[n], settings) for n in todo])
    surveys = [read_json(survey_path(output, number)) for number in range(len(specs))]
    return _usable([found["refused"] for found in surveys], list(range(len(specs))), specs, settings)


def _match(
    output: Path, specs: list[SourceSpec], taken: list[int], settings: BuildSettings, run: Run
) -> tuple[list[int], dict[str, str]]:
    """The same, of those whose genes are looked up in the vocabulary."""
    todo = [n for n in taken if not matches_path(output, n).is_file()]
    run("match genes", match_source, [(output, n, specs[n]) for n in todo])
    refusals = [read_json(matches_path(output, number))["refused"] for number in taken]
    return _usable(refusals, taken, specs, settings)


def _usable(
    refusals: list[str | None], numbers: list[int], specs: list[SourceSpec], settings: BuildSettings
) -> tuple[list[int], dict[str, str]]:
    pairs = list(zip(numbers, refusals, strict=True))
    refused = {specs[number].name: refusal for number, refusal in pairs if refusal is not None}
    usable = [number for number, refusal in pairs if refusal is None]
    if refused and (not settings.skip_refused or not usable):
        reasons = " ".join(f"({place}) {reason}" for place, reason in enumerate(refused.values(), 1))
        raise ValueError(
            f"{len(refused)} of {len(specs)} sources cannot be used: {reasons} To go on without them: "
            "`--skip-refused`."
        )
    for name, reason in refused.items():
        logger.warning(f"{name} is left out: {reason}")
    return usable, refused


def _write_processor(output: Path, settings: BuildSettings, taken: list[int]) -> ScMMGPTFeatureExtractor:
    if settings.genes is not None:
        extractor = ScMMGPTFeatureExtractor.from_pretrained(settings.genes)
    else:
        surveys = (read_json(survey_path(output, number)) for number in taken)
        extractor = union_of_genes((found["symbols"], found["ensembl_ids"]) for found in surveys)
    made = output / WORK / PROCESSOR
    with room_on_disk(output / PROCESSOR):
        extractor.save_pretrained(made)
    (output / PROCESSOR).mkdir(exist_ok=True)
    for file in made.iterdir():
        file.replace(output / PROCESSOR / file.name)
    return extractor


def _write_shards(output: Path, plan: Plan, settings: BuildSettings, run: Run) -> None:
    total = sum(source.survey["kept"] for source in plan.sources)
    turn = [s for s in plan.sources if s.survey["by_columns"] and not by_rows_path(output, s.number).is_dir()]
    run("turn columns", turn_source, [(output, s) for s in turn], sum(s.survey["kept"] for s in turn))

    vocab = _hash_of_genes(str(output / PROCESSOR))
    chunks = [(source, chunk) for source in plan.sources for chunk in source.chunks]
    todo = [(s, chunk) for s, chunk in chunks if not chunk_path(output, s.number, chunk).is_file()]
    done = total - sum(source.cells_in(chunk) for source, chunk in todo)
    run("read cells", write_chunk, [(output, s, chunk, settings, vocab) for s, chunk in todo], total, done)

    paths = [chunk_path(output, source.number, chunk) for source, chunk in chunks]
    todo, done = [], 0
    for destination, (split, shard) in enumerate(plan.shards):
        record = shard_record_path(output, split, shard)
        if record.is_file() and (output / shard_name(split, shard)).is_file():
            done += read_json(record)["cells"]
        else:
            todo.append((output, split, shard, destination, paths, plan.vocab_size))
    run("write shards", write_shard, todo, total, done)
