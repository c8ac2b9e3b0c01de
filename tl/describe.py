"""Cells in words."""

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data import prompts
from .models import LoadedModel, cell_batches, load

if TYPE_CHECKING:
    from anndata import AnnData


@torch.inference_mode()
def describe(
    adata: "AnnData",
    model: str | os.PathLike | LoadedModel,
    prompt: str | None = None,
    key_added: str = "scmmgpt_description",
    max_new_tokens: int = 128,
    layer: str | None = None,
    batch_size: int = 32,
) -> None:
    """
    Writes a text about each cell into `adata.obs[key_added]`. Greedy decoding: the same cell gets the same text.

    Args:
        adata (`AnnData`): raw counts in `X` or in `layer`.
        model (`str`, `os.PathLike` or `LoadedModel`): see [`load`].
        prompt (`str`, *optional*): what to ask, with one `<cell>`; a plain request for a description when absent.
        key_added (`str`): column of `obs` to write.
        max_new_tokens (`int`): longest text.
        layer (`str`, *optional*): layer of `adata` that holds the counts, or `raw` for `adata.raw`.
        batch_size (`int`): cells at a time.

    Raises:
        ValueError: when the prompt has no or several cells, or the counts are unusable.
    """
    loaded = load(model)
    prompt = prompt or prompts("describe")
    cell_token = loaded.processor.cell_token
    if prompt.count(cell_token) != 1:
        raise ValueError(f"`prompt` is {prompt!r}: expected exactly one {cell_token} in it.")
    texts = np.empty(adata.n_obs, dtype=object)
    for indices, cells in cell_batches(adata, loaded, batch_size, layer, "describe"):
        inputs = loaded.processor(text=[prompt] * len(indices), cells=cells).to(loaded.model.device)
        output_ids = loaded.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
        answer_ids = output_ids[:, inputs["input_ids"].shape[1] :]
        answers = loaded.processor.batch_decode(answer_ids, skip_special_tokens=True)
        texts[indices] = [answer.strip() for answer in answers]
    adata.obs[key_added] = texts
