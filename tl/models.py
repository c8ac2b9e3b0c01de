"""A model with its processor, and cells in batches for it. Shared by every function of `tl`."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm

from ..configuration_scmmgpt import ScMMGPTConfig
from ..modeling_scmmgpt import ScMMGPTForConditionalGeneration
from ..processing_scmmgpt import AlignedCounts, ScMMGPTProcessor

if TYPE_CHECKING:
    from anndata import AnnData


class LoadedModel(NamedTuple):
    """A model and the processor that belongs to it."""

    model: ScMMGPTForConditionalGeneration
    processor: ScMMGPTProcessor


def load(
    model: str | os.PathLike | LoadedModel,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype = "auto",
) -> LoadedModel:
    """
    A model and its processor, ready to answer.

    Args:
        model (`str`, `os.PathLike` or `LoadedModel`): folder or Hub id of a model; what is loaded already comes back
            as it is.
        device (`str` or `torch.device`, *optional*): CUDA where there is one, else the CPU.
        dtype (`str` or `torch.dtype`): the weights' own when `"auto"`.

    Raises:
        ValueError: when there is no complete model.
    """
    if isinstance(model, LoadedModel):
        return model
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        config, _ = ScMMGPTConfig.get_config_dict(model)
        if config.get("model_type") != ScMMGPTConfig.model_type:  # or transformers would fill in what is missing
            raise OSError(f"its config.json is missing or of model type {config.get('model_type')!r}")
        loaded = ScMMGPTForConditionalGeneration.from_pretrained(model, dtype=dtype)
        processor = ScMMGPTProcessor.from_pretrained(model)
    except OSError as error:
        raise ValueError(
            f"`model` is {str(model)!r}, where no complete model can be read. Pass the folder that `save_pretrained` "
            f"or training wrote, with its processor, or a Hub id. The cause: {error}"
        ) from error
    return LoadedModel(loaded.to(device).eval(), processor)


def cell_batches(
    adata: "AnnData", loaded: LoadedModel, batch_size: int, layer: str | None, title: str
) -> Iterator[tuple[np.ndarray, AlignedCounts]]:
    """
    Every cell once, cells of like length together so that little is padded, with a progress bar.

    Yields:
        `(np.ndarray, AlignedCounts)`: indices in `adata` of a batch's cells, and their counts, for the processor.

    Raises:
        ValueError: when `batch_size` is below 1 or the counts are unusable.
    """
    if batch_size < 1:
        raise ValueError(f"`batch_size`={batch_size}: expected at least 1.")
    cells = loaded.processor.feature_extractor.align(adata, layer=layer)
    order = np.argsort(-np.diff(cells.indptr), kind="stable")
    with tqdm(total=len(order), desc=title, unit="cell") as progress:
        for start in range(0, len(order), batch_size):
            indices = order[start : start + batch_size]
            yield indices, cells.select(indices)
            progress.update(len(indices))
