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
from ..data import CaptionWriter, Ontology, SplitManifest, demo_cells, name_genes, read_cells, read_facts, split_cells
from ..evaluation.cells import LabelledCells
from ..evaluation.goals import check_annotation, check_generation
from ..evaluation.model_card import render_model_card
from ..evaluation.tasks import annotation, description, generation
from ..tl import LoadedModel
from ..train.pretrain import pretrain
from ..train.recipe import Recipe
from .report import write_demo_report

if TYPE_CHECKING:
    from anndata import AnnData

GUIDANCE_SCALE = 1.5
# A group column is used for the split when it has enough values for one to be held out.
GROUP_KEYS = ("study", "donor_id")
MIN_GROUPS = 5
MAX_HELD_OUT = 1000
VERSIONS_OF = ("scmmgpt", "torch", "transformers", "anndata", "scanpy", "scikit-learn", "cellxgene-ontology-guide")


def run_demo(
    output_dir: str | Path = "scmmgpt_demo",
    data: str | Path | None = None,
    label_key: str = "cell_type",
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
        recipe (`str` or `Path`, *optional*): training recipe; `nano` when absent.
        seed (`int`): of the split, the training and the draws.
        overwrite (`bool`): replace what an earlier run left in `output_dir`.

    Returns:
        `dict`: what `results.json` holds.

    Raises:
        ValueError: when the output folder is in use, or the cells or their labels are unusable.
    """
    started = time.monotonic()
    output_dir = _prepare(Path(output_dir), overwrite)
    adata = demo_cells() if data is None else name_genes(read_cells(data))
    labels = _labels(adata, label_key)
    train, test, manifest = _split(adata, label_key, seed)
    (output_dir / "split.json").write_text(manifest.to_json(), encoding="utf-8")

    nano = resources.files("scmmgpt") / "train" / "recipes" / "nano.yaml"
    plan = Recipe.from_yaml(recipe or str(nano), output_dir=str(output_dir / "training"), seed=seed)
    plan.data.label_key = label_key
    trained = pretrain(plan, [train])
    shutil.copytree(trained, output_dir / "model")

    # From here on only what anybody has who downloads the folder.
    loaded = LoadedModel(
        AutoModel.from_pretrained(output_dir / "model", trust_remote_code=True).eval(),
        AutoProcessor.from_pretrained(output_dir / "model", trust_remote_code=True),
    )
    answers = answer(loaded, test, labels, label_key, seed)
    train_cells, test_cells = _as_labelled(train, label_key), _as_labelled(test, label_key)
    results = measure(answers, train_cells, test_cells, seed)
    results |= _facts_of_run(adata, train, test, labels, manifest, loaded, plan, data, seed)
    results["run"]["seconds"] = time.monotonic() - started
    test.write_h5ad(output_dir / "annotated.h5ad")
    answers["generated"].write_h5ad(output_dir / "generated.h5ad")
    (output_dir / "results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
    (output_dir / "model" / "README.md").write_text(render_model_card(results), encoding="utf-8")
    write_demo_report(output_dir, results, answers, train_cells, test_cells)
    return results


def _prepare(output_dir: Path, overwrite: bool) -> Path:
    if output_dir.exists() and any(output_dir.iterdir()):
        if not overwrite:
            raise ValueError(
                f"`output_dir`: {output_dir} is not empty. Choose another folder, or pass --overwrite to replace what "
                "an earlier run left there."
            )
        if not (output_dir / "split.json").is_file():
            raise ValueError(f"`output_dir`: {output_dir} holds files that no earlier run of this command wrote.")
        shutil.rmtree(output_dir)
    output_dir.mkdir(parents=True, exist_ok=True)
    return output_dir


def _labels(adata: "AnnData", label_key: str) -> list[str]:
    """The cell types, after a look at whether they can be learnt and held out."""
    if label_key not in adata.obs:
        raise ValueError(
            f"`label_key` is {label_key!r}, but `obs` has {sorted(adata.obs.columns)}. Name the column of cell types."
        )
    labels = adata.obs[label_key]
    if labels.isna().any():
        raise ValueError(
            f"`{label_key}` is missing for {int(labels.isna().sum())} of {adata.n_obs} cells. Leave those cells out: "
            f"adata[adata.obs[{label_key!r}].notna()]."
        )
    counts = labels.astype(str).value_counts()
    if len(counts) < 2 or (counts >= 5).sum() < 2:
        raise ValueError(
            f"`{label_key}` has {len(counts)} type(s), {int((counts >= 5).sum())} of them with 5 cells or more. At "
            "least two such types are needed to train and to hold out."
        )
    adata.obs[label_key] = labels.astype(str)
    return sorted(counts.index)


def _split(adata: "AnnData", label_key: str, seed: int) -> "tuple[AnnData, AnnData, SplitManifest]":
    """Held out by study or donor where there are several, else by cell, stratified by type."""
    group_key = next((key for key in GROUP_KEYS if key in adata.obs and adata.obs[key].nunique() >= MIN_GROUPS), None)
    parts = split_cells(adata.obs, label_key, group_key, test_share=0.2, validation_share=0.0, seed=seed)
    manifest = SplitManifest.from_split(adata.obs, parts, label_key, group_key, seed)
    heldout = parts["test"]
    if len(heldout) > MAX_HELD_OUT:
        heldout = np.sort(np.random.default_rng(seed).choice(heldout, MAX_HELD_OUT, replace=False))
    return adata[parts["train"]].copy(), adata[heldout].copy(), manifest


def _as_labelled(adata: "AnnData", label_key: str) -> LabelledCells:
    return LabelledCells(sparse.csr_matrix(adata.X), adata.obs[label_key].to_numpy(str), list(adata.var_names))


def answer(loaded: LoadedModel, test: "AnnData", labels: list[str], label_key: str, seed: int) -> dict[str, Any]:
    """
    What the model says of the held-out cells, and the cells it generates for their types.

    Returns:
        `dict`: `predicted`, `confidence`, `descriptions` (in `test` too), and `generated`, an AnnData with the label
        that was asked for in `obs`.
    """
    writer = CaptionWriter(Ontology())
    tl.annotate(test, loaded, labels)
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
        "sentences": {fact.cell_type: writer.describe(fact, np.random.default_rng(seed)) for fact in facts},
        "names": {label: [writer.type_name(label)] for label in labels},
    }


def measure(answers: dict[str, Any], train: LabelledCells, test: LabelledCells, seed: int) -> dict[str, Any]:
    """The task tables and the goals, from the model's answers."""
    rows = {
        "annotation": annotation.evaluate(train, test, answers["predicted"], answers["confidence"], seed=seed),
        "description": description.evaluate(
            train, test, answers["descriptions"], answers["sentences"], names=answers["names"], seed=seed
        ),
        "generation": generation.evaluate(train, test, answers["generated_cells"], seed=seed),
    }
    checks = check_annotation(rows["annotation"]) + check_generation(rows["generation"])
    return rows | {"checks": [check.to_dict() for check in checks]}


def _facts_of_run(
    adata: "AnnData",
    train: "AnnData",
    test: "AnnData",
    labels: list[str],
    manifest: SplitManifest,
    loaded: LoadedModel,
    plan: Recipe,
    data: str | Path | None,
    seed: int,
) -> dict[str, Any]:
    """What a reader needs to judge the numbers, and to get them again."""
    counts = sparse.csr_matrix(adata.X)
    content = b"".join(np.ascontiguousarray(part).tobytes() for part in (counts.indptr, counts.indices, counts.data))
    return {
        "model": {
            "name": "scMMGPT nano",
            "num_parameters": loaded.model.num_parameters(),
            "text_model": f"{loaded.model.config.text_config.model_type}, "
            + ("trained from scratch" if plan.text.pretrained is None else f"from {plan.text.pretrained}"),
            "num_genes": len(loaded.processor.feature_extractor.gene_token_ids),
        },
        "data": {
            "name": "pbmc68k_reduced (scanpy)" if data is None else Path(data).name,
            "num_train": train.n_obs,
            "num_test": test.n_obs,
            "num_genes": train.n_vars,
            "types": labels,
            "split": f"20 % held out by {manifest.unit}, seed {seed}",
            "sha256": hashlib.sha256(content).hexdigest(),
        },
        "run": {
            "seed": seed,
            "guidance_scale": GUIDANCE_SCALE,
            "versions": {name: importlib.metadata.version(name) for name in VERSIONS_OF},
        },
    }
