"""What a training run is of: its recipe, and hashes of what it learns from, so that no other run goes on with it.

Must not import the model.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..processing_scmmgpt import ScMMGPTProcessor
from .recipe import Recipe

RECIPE, HASHES = "recipe.yaml", "sha256.yaml"


def record_run(
    recipe: Recipe,
    processor: ScMMGPTProcessor,
    hashes: dict[str, str],
) -> None:
    """
    Writes `recipe.yaml` and `sha256.yaml` into the output folder of a run that begins; where one has begun already,
    compares them.

    Args:
        recipe (`Recipe`): the recipe of this run.
        processor (`ScMMGPTProcessor`): its gene vocabulary and tokenizer.
        hashes (`dict[str, str]`): hashes of its training cells and of what is known of them, by name.

    Raises:
        ValueError: when the run in the folder is of another recipe, other cells or another vocabulary.
    """
    folder = Path(recipe.output_dir)
    wanted = {RECIPE: asdict(recipe), HASHES: _hashes(recipe, processor) | hashes}
    if not (folder / "stages").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name, values in wanted.items():
            (folder / name).write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return
    differences = []
    for name, values in wanted.items():
        if not (folder / name).is_file():
            raise ValueError(f"`output_dir`: {folder} holds a run without {name}. Choose another folder.")
        there = _flat(yaml.safe_load((folder / name).read_text(encoding="utf-8")))
        here = _flat(yaml.safe_load(yaml.safe_dump(values)))
        keys = [key for key in [*there, *(here.keys() - there.keys())] if key != "output_dir"]  # a folder may move
        differences += [
            f"{key} ({there.get(key, 'absent')} there, {here.get(key, 'absent')} here)"
            for key in keys
            if (key in there, there.get(key)) != (key in here, here.get(key))
        ]
    if differences:
        raise ValueError(
            f"`output_dir`: {folder} holds a run of another recipe or other cells: {'; '.join(differences)}. Resume "
            "with what it was begun with, or choose another folder."
        )


def _hashes(recipe: Recipe, processor: ScMMGPTProcessor) -> dict[str, str]:
    extractor = processor.feature_extractor
    vocabulary = json.dumps([extractor.vocab, extractor.ensembl_ids]).encode()
    tokenizer = json.dumps(sorted(processor.tokenizer.get_vocab().items())).encode()
    words = [Path(path).read_bytes() for path in (*recipe.words.descriptions, *recipe.words.markers)]
    return {"gene_vocabulary": sha256(vocabulary), "tokenizer": sha256(tokenizer), "words": sha256(*words)}


def sha256(*parts: bytes) -> str:
    """Hash of some bytes, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and lists as one mapping, with keys such as `stages.0.losses.flow`."""
    if not isinstance(values, (dict, list)) or not values:
        return {prefix: values}
    items = values.items() if isinstance(values, dict) else enumerate(values)
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= _flat(value, f"{prefix}.{key}" if prefix else str(key))
    return flat
