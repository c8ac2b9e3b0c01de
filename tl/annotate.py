"""Cell types from the words that name them: zero-shot wherever the model was not trained on the label."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from ..data import CaptionWriter, Ontology
from .models import LoadedModel, cell_batches, load

if TYPE_CHECKING:
    from anndata import AnnData


@torch.inference_mode()
def annotate(
    adata: "AnnData",
    model: str | os.PathLike | LoadedModel,
    labels: Sequence[str] | Mapping[str, Sequence[str]],
    prior: Mapping[str, float] | None = None,
    key_added: str = "scmmgpt",
    min_score: float = 0.0,
    layer: str | None = None,
    batch_size: int = 64,
) -> None:
    """
    Gives each cell the candidate type whose texts lie nearest to it.

    Writes to `adata`:
    * `obs[f"{key_added}_label"]`: the label, a category; "unassigned" where the score is below `min_score`;
    * `obs[f"{key_added}_label_ontology_term_id"]`: its Cell Ontology id, "" where the label names no term;
    * `obs[f"{key_added}_score"]`: softmax over the candidates of similarity at the model's own temperature, between
      1/candidates and 1. It ranks cells by how sure the model is; it is not a calibrated probability.
    * `obsm[f"{key_added}_scores"]`: `(cells, candidates)` float32, columns in the order of
      `uns[f"{key_added}_labels"]`.

    Args:
        adata (`AnnData`): raw counts in `X` or in `layer`.
        model (`str`, `os.PathLike` or `LoadedModel`): see [`load`].
        labels (`Sequence[str]` or `Mapping`): candidate types by name, phrased in several ways by [`CaptionWriter`];
            or for each label the texts that describe it.
        prior (`Mapping`, *optional*): how common each label is expected to be, as shares or numbers of cells; all
            alike when absent. Contrastive similarity estimates log p(text | cell) / p(text): a posterior needs it.
        key_added (`str`): prefix of what is written.
        min_score (`float`): cells below it are left unassigned.
        layer (`str`, *optional*): layer of `adata` that holds the counts, or `raw` for `adata.raw`.
        batch_size (`int`): cells at a time.

    Raises:
        ValueError: when there are fewer than two candidates, a candidate has no text or no positive prior, or the
            counts are unusable.
    """
    import pandas as pd

    loaded = load(model)
    ontology = Ontology()
    texts = _texts_by_label(labels, ontology)
    text_embeds = torch.stack([_mean_text_embedding(loaded, candidate) for candidate in texts.values()])
    log_prior = _log_prior(prior, list(texts)).to(loaded.model.device)
    scores = np.empty((adata.n_obs, len(texts)), dtype=np.float32)
    for indices, cells in cell_batches(adata, loaded, batch_size, layer, "annotate"):
        inputs = loaded.processor(cells=cells).to(loaded.model.device)
        similarity = loaded.model.contrastive_head.similarity(loaded.model.get_cell_embeddings(**inputs), text_embeds)
        scores[indices] = (similarity.float() + log_prior).softmax(-1).cpu().numpy()
    names = np.array(list(texts))
    best = scores.argmax(1)
    assigned = scores.max(1) >= min_score
    ids = np.array([ontology.resolve(name) or "" for name in names])
    adata.obs[f"{key_added}_label"] = pd.Categorical(np.where(assigned, names[best], "unassigned"))
    adata.obs[f"{key_added}_label_ontology_term_id"] = pd.Categorical(np.where(assigned, ids[best], ""))
    adata.obs[f"{key_added}_score"] = scores.max(1)
    adata.obsm[f"{key_added}_scores"] = scores
    adata.uns[f"{key_added}_labels"] = names


def _texts_by_label(
    labels: Sequence[str] | Mapping[str, Sequence[str]], ontology: Ontology
) -> dict[str, Sequence[str]]:
    if not isinstance(labels, Mapping):
        if isinstance(labels, str):
            raise ValueError(f"`labels` is the text {labels!r}: expected a list of candidate cell types.")
        nameless = [label for label in labels if not isinstance(label, str) or not label.strip()]
        if nameless:
            raise ValueError(f"`labels` holds {nameless[0]!r}: expected the names of cell types. Leave it out.")
        writer = CaptionWriter(ontology)
        labels = {label: writer.candidates(label) for label in dict.fromkeys(labels)}
    if len(labels) < 2:
        raise ValueError(
            f"`labels` holds {len(labels)} candidate(s): expected at least two cell types to choose from."
        )
    for label, texts in labels.items():
        if isinstance(texts, str) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise ValueError(f"`labels[{label!r}]` is {texts!r}: expected a list of one or more texts.")
    return dict(labels)


def _log_prior(prior: Mapping[str, float] | None, labels: Sequence[str]) -> torch.Tensor:
    """`(candidates,)`: zeros without a prior."""
    if prior is None:
        return torch.zeros(len(labels))
    unusable = [label for label in labels if not 0 < prior.get(label, 0) < float("inf")]
    if unusable:
        raise ValueError(
            f"`prior` gives {unusable[0]!r} {prior.get(unusable[0])!r}: expected a positive number for every label. "
            "Leave a label out of `labels` if it cannot occur."
        )
    return torch.tensor([float(prior[label]) for label in labels]).log()


def _mean_text_embedding(loaded: LoadedModel, texts: Sequence[str]) -> torch.Tensor:
    """`(E,)`: the direction of several phrasings together."""
    inputs = loaded.processor(text=list(texts)).to(loaded.model.device)
    return torch.nn.functional.normalize(loaded.model.get_text_embeddings(**inputs).mean(0), dim=0)
