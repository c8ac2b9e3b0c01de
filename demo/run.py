"""`scmmgpt demo`: from one file of labelled cells to a trained model, its answers on held-out cells, and a report.

Nothing is tuned on the held-out cells: they are set aside first and touched only by the reloaded model.
"""

import hashlib
import importlib.metadata
import json
import shutil
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse
from transformers import AutoModel, AutoProcessor

from .. import tl
from ..data import (
    CaptionWriter,
    Ontology,
    SplitManifest,
    demo_cells,
    name_genes,
    read_cells,
    read_facts,
    split_cells,
    take_counts,
)
from ..evaluation.cells import LabelledCells
from ..evaluation.goals import check_annotation, check_generation
from ..evaluation.tasks import annotation, description, generation
from ..model_card import render_model_card
from ..tl import LoadedModel
from ..train.pretrain import model_facts, pretrain
from ..train.recipe import Recipe
from .report import write_demo_report

if TYPE_CHECKING:
    from anndata import AnnData

GUIDANCE_SCALE = 1.5
# A group column is used for the split when it has enough values for one to be held out.
GROUP_KEYS = ("study", "donor_id")
MIN_GROUPS = 5
MAX_HELD_OUT = 1000
LEAST_CELLS_OF_TYPE = 5
MANIFEST = "split.json"
WRITTEN = ("annotated.h5ad", "generated.h5ad", "model", "report.html", "results.json", MANIFEST, "training")
VERSIONS_OF = ("scmmgpt", "torch", "transformers", "anndata", "scanpy", "scikit-learn", "cellxgene-ontology-guide")


def run_demo(
    output_dir: str | Path = "scmmgpt_demo",
    data: str | Path | None = None,
    label_key: str = "cell_type",
    layer: str | None = None,
    recipe: str | Path | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """
    Runs the whole job and writes `model/`, `annotated.h5ad`, `generated.h5ad`, `results.json` and `report.html`.

    Args:
        output_dir (`str` or `Path`): where everything goes.
        data (`str` or `Path`, *optional*): an `.h5ad` of raw counts; scanpy's 700 blood cells when absent.
        label_key (`str`): column of `obs` with the cell types.
        layer (`str`, *optional*): layer of the file that holds the counts, or `raw`; `X` when absent.
        recipe (`str` or `Path`, *optional*): training recipe; `nano` when absent.
        seed (`int`): of the split, the training and the draws.
        overwrite (`bool`): replace what an earlier run left in `output_dir`.

    Returns:
        `dict`: what `results.json` holds.

    Raises:
        ValueError: when the output folder is in use, or the cells or their labels are unusable.
    """
    started = time.monotonic()
    output_dir, writer = Path(output_dir), CaptionWriter(Ontology())
    _check_output(output_dir, overwrite)
    plan = _plan(recipe, output_dir, data, label_key, layer, seed)
    adata = demo_cells() if data is None else name_genes(take_counts(read_cells(data), layer))
    _tidy_labels(adata, label_key, writer)
    train, test, manifest = _split(adata, label_key, seed)
    _clear(output_dir)  # not before it is clear that this run can begin
    (output_dir / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    trained = pretrain(plan, [train])
    shutil.copytree(trained, output_dir / "model")

    # From here on only what anybody has who downloads the folder.
    loaded = LoadedModel(
        AutoModel.from_pretrained(output_dir / "model", trust_remote_code=True).eval(),
        AutoProcessor.from_pretrained(output_dir / "model", trust_remote_code=True),
    )
    train_cells, test_cells = _as_labelled(train, label_key), _as_labelled(test, label_key)
    shares = dict(zip(*np.unique(train_cells.labels, return_counts=True), strict=True))
    answers = answer(loaded, test, shares, label_key, writer, seed)
    test.write_h5ad(output_dir / "annotated.h5ad")
    answers["generated"].write_h5ad(output_dir / "generated.h5ad")
    sentences = _sentences(train, label_key, writer, seed)
    groups = None if manifest.group_key is None else test.obs[manifest.group_key].to_numpy(str)
    results = measure(answers, train_cells, test_cells, sentences, writer, groups, seed)
    results |= _facts_of_run(adata, train_cells, test_cells, manifest, loaded, plan, data, writer, seed)
    results["run"]["seconds"] = time.monotonic() - started
    (output_dir / "results.json").write_text(json.dumps(results, indent=2, allow_nan=False), encoding="utf-8")
    (output_dir / "model" / "README.md").write_text(render_model_card(results), encoding="utf-8")
    write_demo_report(output_dir, results, answers, train_cells, test_cells, writer)
    return results


def _check_output(output_dir: Path, overwrite: bool) -> None:
    """Refuses a folder in which anything but an earlier run of this command would be lost."""
    if output_dir.exists() and not output_dir.is_dir():
        raise ValueError(f"`output_dir`: {output_dir} is a file. Choose the name of a folder.")
    found = sorted(path.name for path in output_dir.iterdir()) if output_dir.exists() else []
    if found and not overwrite:
        raise ValueError(
            f"`output_dir`: {output_dir} is not empty. Choose another folder, or pass --overwrite to replace what an "
            "earlier run left there."
        )
    foreign = [name for name in found if name not in WRITTEN]
    if foreign or (found and MANIFEST not in found):
        raise ValueError(
            f"`output_dir`: {output_dir} holds {', '.join((foreign or found)[:5])}, which no earlier run of this "
            "command wrote. Nothing was replaced: choose another folder."
        )


def _clear(output_dir: Path) -> None:
    output_dir.mkdir(parents=True, exist_ok=True)
    for path in output_dir.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _plan(
    recipe: str | Path | None,
    output_dir: Path,
    data: str | Path | None,
    label_key: str,
    layer: str | None,
    seed: int,
) -> Recipe:
    """The training recipe, told of these cells."""
    if data is None and layer is not None:
        raise ValueError(f"`layer` is {layer!r}, but the demonstration cells have none. Pass `data`, or drop it.")
    nano = resources.files("scmmgpt") / "train" / "recipes" / "nano.yaml"
    plan = Recipe.from_yaml(recipe or str(nano), output_dir=str(output_dir / "training"), seed=seed)
    plan.data.label_key, plan.data.layer = label_key, layer
    plan.data.sources = ["demo" if data is None else str(data)]
    return plan


def _tidy_labels(adata: "AnnData", label_key: str, writer: CaptionWriter) -> None:
    """Writes the cell types as texts will name them into `obs`, after a look at whether they can be learnt."""
    if label_key not in adata.obs:
        raise ValueError(
            f"`label_key` is {label_key!r}, but `obs` has {sorted(adata.obs.columns)}. Name the column of cell types."
        )
    labels = np.array([fact.cell_type for fact in read_facts(adata.obs, writer.ontology, label_key)], dtype=object)
    missing = sum(label is None for label in labels)
    if missing:
        raise ValueError(
            f"`label_key`: {label_key!r} is empty or 'unknown' for {missing} of {adata.n_obs} cells. Leave those "
            "cells out of the file."
        )
    types, sizes = np.unique(labels, return_counts=True)
    if (sizes >= LEAST_CELLS_OF_TYPE).sum() < 2:
        raise ValueError(
            f"`label_key`: {label_key!r} has {len(types)} type(s), {(sizes >= LEAST_CELLS_OF_TYPE).sum()} of them "
            f"with {LEAST_CELLS_OF_TYPE} cells or more. At least two such types are needed to train and to hold out."
        )
    writer.mentioned_type(
        "", types.tolist()
    )  # labels that are written alike are refused before the training, not after
    adata.obs[label_key] = labels


def _split(adata: "AnnData", label_key: str, seed: int) -> "tuple[AnnData, AnnData, SplitManifest]":
    """
    Held out by study or donor where there are several, else by cell, stratified by type. Cells of a type that only the
    held-out donors have are not tested: nothing could have learnt it. The manifest calls what was held out and not
    tested "untested".
    """
    group_key = next((key for key in GROUP_KEYS if key in adata.obs and adata.obs[key].nunique() >= MIN_GROUPS), None)
    parts = split_cells(adata.obs, label_key, group_key, test_share=0.2, validation_share=0.0, seed=seed)
    labels = adata.obs[label_key].to_numpy(str)
    heldout = parts["test"][np.isin(labels[parts["test"]], labels[parts["train"]])]
    if len(parts["train"]) < max(generation.NEIGHBOURS) or len(np.unique(labels[heldout])) < 2:
        raise ValueError(
            f"`data`: of {adata.n_obs} cells, {len(parts['train'])} are for training and {len(heldout)}, of "
            f"{len(np.unique(labels[heldout]))} type(s), to hold out. Needed are {max(generation.NEIGHBOURS)} for "
            "training, and two types on both sides: pass more cells."
        )
    if len(heldout) > MAX_HELD_OUT:
        heldout = np.sort(np.random.default_rng(seed).choice(heldout, MAX_HELD_OUT, replace=False))
    parts |= {"test": heldout, "untested": np.setdiff1d(parts["test"], heldout)}
    manifest = SplitManifest.from_split(adata.obs, parts, label_key, group_key, seed)
    return adata[parts["train"]].copy(), adata[heldout].copy(), manifest


def _as_labelled(adata: "AnnData", label_key: str) -> LabelledCells:
    return LabelledCells(sparse.csr_matrix(adata.X), adata.obs[label_key].to_numpy(str), list(adata.var_names))


def answer(
    loaded: LoadedModel, test: "AnnData", shares: dict[str, int], label_key: str, writer: CaptionWriter, seed: int
) -> dict[str, Any]:
    """
    What the model says of the held-out cells, and the cells it generates for their types.

    The candidate types are those of the training cells, as common as there (`shares`): the baselines know no less.

    Returns:
        `dict`: `predicted`, `confidence`, `descriptions` (in `test` too), and `generated`, an AnnData with the label
        that was asked for in `obs`.
    """
    tl.annotate(test, loaded, list(shares), prior=shares)
    tl.describe(test, loaded)
    facts = read_facts(test.obs, writer.ontology, label_key)
    prompts = {fact.cell_type: writer.name(fact) for fact in facts}
    numbers = test.obs[label_key].value_counts()
    generated = tl.generate(
        list(prompts.values()),
        loaded,
        n=[int(numbers[label]) for label in prompts],
        genes=list(test.var_names),
        guidance_scale=GUIDANCE_SCALE,
        seed=seed,
    )
    generated = generated[:, test.var_names].copy()
    generated.obs[label_key] = np.repeat(list(prompts), [numbers[label] for label in prompts])
    return {
        "predicted": test.obs["scmmgpt_label"].to_numpy(str),
        "confidence": test.obs["scmmgpt_score"].to_numpy(),
        "descriptions": test.obs["scmmgpt_description"].tolist(),
        "generated": generated,
        "generated_cells": _as_labelled(generated, label_key),
    }


def _sentences(train: "AnnData", label_key: str, writer: CaptionWriter, seed: int) -> dict[str, str]:
    """What the look-up baseline says of each type: a description of one of its training cells."""
    facts = {fact.cell_type: fact for fact in read_facts(train.obs, writer.ontology, label_key)}
    return {label: writer.describe(fact, np.random.default_rng(seed)) for label, fact in facts.items()}


def measure(
    answers: dict[str, Any],
    train: LabelledCells,
    test: LabelledCells,
    sentences: dict[str, str],
    writer: CaptionWriter,
    groups: np.ndarray | None,
    seed: int,
) -> dict[str, Any]:
    """
    The task tables and the goals, from the model's answers. `groups` are the donors or studies of the held-out cells,
    if whole ones were held out. What has no value is `None`.
    """
    rows = {
        "annotation": annotation.evaluate(train, test, answers["predicted"], answers["confidence"], groups, seed),
        "description": description.evaluate(train, test, answers["descriptions"], sentences, writer, groups, seed),
        "generation": generation.evaluate(train, test, answers["generated_cells"], seed=seed),
    }
    rows = {task: [_without_nan(row) for row in table] for task, table in rows.items()}
    checks = check_annotation(rows["annotation"]) + check_generation(rows["generation"])
    return rows | {"checks": [check.to_dict() for check in checks]}


def _without_nan(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN, and a reader no use for one."""
    return {
        name: None if isinstance(value, float) and not np.isfinite(value) else value for name, value in row.items()
    }


def _facts_of_run(
    adata: "AnnData",
    train: LabelledCells,
    test: LabelledCells,
    manifest: SplitManifest,
    loaded: LoadedModel,
    plan: Recipe,
    data: str | Path | None,
    writer: CaptionWriter,
    seed: int,
) -> dict[str, Any]:
    """What a reader needs to judge the numbers, and to get them again."""
    counts = sparse.csr_matrix(adata.X)
    content = b"".join(np.ascontiguousarray(part).tobytes() for part in (counts.indptr, counts.indices, counts.data))
    return {
        "model": model_facts(plan, loaded.model, loaded.processor),
        "data": {
            "name": "pbmc68k_reduced (scanpy)" if data is None else Path(data).name,
            "num_train": len(train),
            "num_test": len(test),
            "num_genes": len(train.gene_names),
            "types": np.unique(train.labels).tolist(),
            "split": f"20 % held out by {manifest.unit}, seed {seed}",
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        "run": {
            "seed": seed,
            "guidance_scale": GUIDANCE_SCALE,
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF},
            "ontologies": writer.ontology.version,
        },
    }
