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
        layer (`str`, *optional*): layer of `adata` that holds the counts.
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
    for places, cells in cell_batches(adata, loaded, batch_size, layer, "describe"):
        question = prompt.replace(cell_token, cell_token * loaded.processor.num_cell_tokens)
        asked = loaded.processor.tokenizer([question] * len(places), return_tensors="pt").to(loaded.model.device)
        answer = loaded.model.generate(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            **cells,
            max_new_tokens=max_new_tokens,
            do_sample=False,
        )
        answer = answer[:, asked["input_ids"].shape[1] :]
        texts[places] = [text.strip() for text in loaded.processor.batch_decode(answer, skip_special_tokens=True)]
    adata.obs[key_added] = texts
