"""From the words of a command line to sources."""

import glob
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .h5ad_source import H5adSource
from .settings import BuildSettings
from .soma_source import CENSUS, SomaSource, open_soma
from .sources import CountSource, SourceSpec


def open_source(spec: SourceSpec) -> CountSource:
    """The source that a spec names; nothing is read yet."""
    return {"h5ad": H5adSource, "soma": SomaSource}[spec.kind](spec)


def find_sources(locations: Sequence[str], settings: BuildSettings) -> list[SourceSpec]:
    """
    The sources behind paths, globs, folders and URIs, each with a name of its own.

    Args:
        locations (`Sequence[str]`): `.h5ad` files, globs, folders (all `.h5ad` below them), SOMA experiments or
            Census-like collections (folders or URIs), or `census:homo_sapiens`.
        settings ([`BuildSettings`]): `layer`, `filter` and `census_version`.

    Raises:
        ValueError: nothing is there, something is named twice, or the Census is named without a version.
    """
    specs = [spec for location in locations for spec in _specs(location, settings)]
    unique: dict[str, SourceSpec] = {}
    places = set()
    for spec in specs:
        place = (spec.location, spec.organism)
        if place in places:
            raise ValueError(f"`sources`: {spec.location} is named twice. Its cells would be there twice; drop one.")
        places.add(place)
        name, number = spec.name, 1
        while name in unique:
            number += 1
            name = f"{spec.name}-{number}"
        unique[name] = replace(spec, name=name)
    return list(unique.values())


def _specs(location: str, settings: BuildSettings) -> list[SourceSpec]:
    options = {"layer": settings.layer, "filter": settings.filter}
    if location.startswith(f"{CENSUS}:"):
        if settings.census_version in (None, "latest", "stable"):
            raise ValueError(
                f"`census_version` is {settings.census_version!r}: that is another release every few weeks. Pass a "
                "date such as 2025-11-08, so that the corpus can be built again."
            )
        organism = location.removeprefix(f"{CENSUS}:")
        name = f"{CENSUS}-{settings.census_version}-{organism}"
        options |= {"organism": organism, "census_version": settings.census_version}
        return [SourceSpec("soma", name, CENSUS, **options)]
    path = Path(location)
    if "://" in location or _is_soma(path):
        opened = open_soma(location, None)
        if "census_data" not in opened:
            return [SourceSpec("soma", path.name, location, **options)]
        organisms = sorted(opened["census_data"])
        return [SourceSpec("soma", f"{path.name}-{name}", location, organism=name, **options) for name in organisms]
    return [SourceSpec("h5ad", file.stem, str(file), **options) for file in _h5ad_files(path)]


def _is_soma(path: Path) -> bool:
    return (path / "__group").is_dir()  # as TileDB marks a group


def _h5ad_files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(path.rglob("*.h5ad"))
    elif path.is_file():
        found = [path]
    else:
        found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    if not found:
        raise ValueError(f"`sources`: there is no .h5ad file and no SOMA experiment at {path}.")
    return found
