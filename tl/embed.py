"""Cells and texts in one space: embeddings for neighbours and plots, and search by words."""

import os
from typing import TYPE_CHECKING

import numpy as np
import torch

from .models import LoadedModel, cell_batches, load

if TYPE_CHECKING:
    from anndata import AnnData


@torch.inference_mode()
def embed(
    adata: "AnnData",
    model: str | os.PathLike | LoadedModel,
    key_added: str = "X_scmmgpt",
    layer: str | None = None,
    batch_size: int = 64,
) -> None:
    """
    Writes each cell's embedding, `(cells, E)` float32 of unit length, into `adata.obsm[key_added]`.

    Args:
        adata (`AnnData`): raw counts in `X` or in `layer`.
        model (`str`, `os.PathLike` or `LoadedModel`): see [`load`].
        key_added (`str`): entry of `obsm` to write.
        layer (`str`, *optional*): layer of `adata` that holds the counts, or `raw` for `adata.raw`.
        batch_size (`int`): cells at a time.

    Raises:
        ValueError: when the counts are unusable.
    """
    loaded = load(model)
    embeds = np.empty((adata.n_obs, loaded.model.config.contrastive_size), dtype=np.float32)
    for indices, cells in cell_batches(adata, loaded, batch_size, layer, "embed"):
        inputs = loaded.processor(cells=cells).to(loaded.model.device)
        embeds[indices] = loaded.model.get_cell_embeddings(**inputs).float().cpu().numpy()
    adata.obsm[key_added] = embeds


@torch.inference_mode()
def search(
    adata: "AnnData",
    query: str,
    model: str | os.PathLike | LoadedModel,
    key_added: str = "scmmgpt_search",
    embedding_key: str = "X_scmmgpt",
    layer: str | None = None,
) -> np.ndarray:
    """
    Ranks cells by how well a text describes them.

    Writes the cosine similarity, -1 to 1, into `adata.obs[key_added]`. Embeddings are computed with [`embed`] when
    `adata.obsm` does not hold them yet.

    Args:
        adata (`AnnData`): cells to search.
        query (`str`): what to look for, such as "cytotoxic lymphocytes".
        model (`str`, `os.PathLike` or `LoadedModel`): see [`load`].
        key_added (`str`): column of `obs` to write.
        embedding_key (`str`): entry of `obsm` that [`embed`] wrote, with the same model.
        layer (`str`, *optional*): layer of `adata` that holds the counts, or `raw` for `adata.raw`.

    Returns:
        `np.ndarray` of shape `(cells,)`: indices in `adata`, best first.

    Raises:
        ValueError: when the query is empty, or the embeddings are not this model's.
    """
    if not query.strip():
        raise ValueError("`query` is empty: write what kind of cell to look for.")
    loaded = load(model)
    if embedding_key not in adata.obsm:
        embed(adata, loaded, key_added=embedding_key, layer=layer)
    width, expected = adata.obsm[embedding_key].shape[1], loaded.model.config.contrastive_size
    if width != expected:
        raise ValueError(
            f"`embedding_key`: {embedding_key!r} is of width {width}, and the embeddings of this model of {expected}. "
            "Name the entry that `embed` wrote with it."
        )
    text_embeds = loaded.model.get_text_embeddings(**loaded.processor(text=query).to(loaded.model.device))
    similarity = adata.obsm[embedding_key] @ text_embeds[0].float().cpu().numpy()
    adata.obs[key_added] = similarity
    return np.argsort(-similarity, kind="stable")
