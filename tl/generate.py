"""Whole cells from words."""

import os
from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm

from .models import LoadedModel, load

if TYPE_CHECKING:
    from anndata import AnnData

# Not an argument: what a seed draws depends on it.
CELLS_PER_DRAW = 512


@torch.inference_mode()
def generate(
    text: str | Sequence[str],
    model: str | os.PathLike | LoadedModel,
    n: int | Sequence[int] = 1,
    genes: Sequence[str] | None = None,
    guidance_scale: float = 1.5,
    num_flow_steps: int = 20,
    seed: int = 0,
) -> "AnnData":
    """
    Cells that a text describes, as raw counts with the spread of real cells.

    Every text draws from a source of its own, seeded with `seed` and the text's index, so its cells do not depend on
    the texts beside it.

    Args:
        text (`str` or `Sequence[str]`): one or several descriptions.
        model (`str`, `os.PathLike` or `LoadedModel`): see [`load`].
        n (`int` or `Sequence[int]`): cells per text.
        genes (`Sequence[str]`, *optional*): genes that the assay would measure; all that the model was trained on when
            absent.
        guidance_scale (`float`): 1 follows the text, more exaggerates what it says.
        num_flow_steps (`int`): integration steps.
        seed (`int`): the same seed gives the same cells.

    Returns:
        `AnnData`: sparse int32 counts; `obs["prompt"]`; gene symbols in `var_names`, Ensembl ids in
        `var["ensembl_id"]`.

    Raises:
        ValueError: when a text is empty, `n` does not fit the texts, or a gene is unknown.
    """
    import anndata
    from scipy import sparse

    loaded = load(model)
    texts, numbers = _requests(text, n)
    if not isinstance(seed, Integral) or seed < 0:
        raise ValueError(f"`seed` is {seed!r}: expected a whole number, 0 or more.")
    gene_ids = None if genes is None else _panel(loaded, genes)
    counts, prompts = [], []
    with tqdm(total=sum(numbers), desc="generate", unit="cell") as progress:
        for index, (prompt, number) in enumerate(zip(texts, numbers, strict=True)):
            inputs = loaded.processor(text=prompt).to(loaded.model.device)
            seeds = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)
            generator = torch.Generator(loaded.model.device).manual_seed(int(seeds[0] >> 1))
            for start in range(0, number, CELLS_PER_DRAW):
                size = min(CELLS_PER_DRAW, number - start)
                outputs = loaded.model.generate(
                    **inputs,
                    generation_mode="cell",
                    num_return_sequences=size,
                    guidance_scale=guidance_scale,
                    num_flow_steps=num_flow_steps,
                    gene_ids=gene_ids,
                    generator=generator,
                )
                cells = loaded.processor.post_process_cells(outputs)
                counts.append(sparse.csr_matrix(cells["counts"]))
                prompts += [prompt] * size
                progress.update(size)
    adata = anndata.AnnData(sparse.vstack(counts, format="csr"))
    adata.var_names = cells["var_names"]
    adata.var["ensembl_id"] = cells["ensembl_ids"]
    adata.obs["prompt"] = prompts
    return adata


def _requests(text: str | Sequence[str], n: int | Sequence[int]) -> tuple[list[str], list[int]]:
    """Every text with its number of cells."""
    texts = [text] if isinstance(text, str) else list(text)
    if not all(isinstance(each, str) for each in texts):
        raise ValueError(f"`text` is {text!r}: expected a description or a list of descriptions.")
    numbers = list(n) if isinstance(n, Iterable) else [n] * len(texts)
    whole = all(isinstance(number, Integral) and number > 0 for number in numbers)
    if not texts or len(numbers) != len(texts) or not whole:
        raise ValueError(f"`n` is {n!r} for {len(texts)} text(s): expected one positive number, or one per text.")
    return texts, [int(number) for number in numbers]


def _panel(loaded: LoadedModel, genes: Sequence[str]) -> torch.Tensor:
    if isinstance(genes, str) or not len(genes):
        found = f"the text {genes!r}" if isinstance(genes, str) else "empty"
        raise ValueError(f"`genes` is {found}: expected a list of gene names, or `None` for all genes.")
    ids = loaded.processor.feature_extractor.gene_ids(genes)
    unknown = [gene for gene, gene_id in zip(genes, ids, strict=True) if gene_id < 0]
    if unknown:
        raise ValueError(
            f"`genes` names {len(unknown)} that the model does not know, such as {unknown[:5]}. Leave them out, or "
            "load a model trained with them."
        )
    return torch.as_tensor(np.unique(ids))
