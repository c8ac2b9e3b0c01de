"""The functions on AnnData: what they write, that neither batches nor order matter, and what they refuse."""

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from transformers import LlamaConfig

from scmmgpt import ScMMGPTFeatureExtractor, ScMMGPTProcessor, tl
from scmmgpt.data import CaptionWriter, CellFacts, Ontology, train_tokenizer

from .tiny import GENES, make_counts, make_model

LABELS = ["CD19+ B", "NK", "CD14+ Monocyte", "Vascular"]
ENSEMBL_IDS = [f"ENSG{i:011d}" for i in range(len(GENES))]
ORDERS = {"as they are": slice(None), "reversed": slice(None, None, -1), "some": [7, 2, 11]}


@pytest.fixture(scope="module")
def loaded() -> tl.LoadedModel:
    """A random model whose tokenizer knows English."""
    rng, writer = np.random.default_rng(0), CaptionWriter(Ontology())
    facts = [CellFacts(label, writer.ontology.resolve(label), tissue="blood") for label in LABELS]
    texts = [writer.describe(fact, rng, GENES) for fact in facts for _ in range(50)]
    tokenizer = train_tokenizer(texts, 500)
    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "initializer_range": 0.15}
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    model = make_model(
        text_config=LlamaConfig(**sizes, **ids, num_hidden_layers=2, num_key_value_heads=2, vocab_size=len(tokenizer)),
        qformer_config=sizes
        | {"num_hidden_layers": 2, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        cell_token_id=tokenizer.cell_token_id,
    )
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES, ENSEMBL_IDS)
    return tl.LoadedModel(model, ScMMGPTProcessor(extractor, tokenizer, num_cell_tokens=3))


@pytest.fixture
def adata() -> anndata.AnnData:
    """Twelve cells, of which some express ten times as many genes as others."""
    counts = make_counts(12, seed=1)
    counts[::3, 6:] = 0
    adata = anndata.AnnData(sparse.csr_matrix(counts, dtype=np.float32))
    adata.obs_names = [f"cell{i}" for i in range(12)]
    adata.var_names = GENES
    return adata


def embeddings_one_by_one(loaded: tl.LoadedModel, adata: anndata.AnnData) -> np.ndarray:
    with torch.no_grad():
        inputs = [loaded.processor(cells=adata[i]) for i in range(adata.n_obs)]
        return torch.cat([loaded.model.get_cell_embeddings(**each) for each in inputs]).numpy()


# Annotate


def test_annotate_writes_labels_ids_and_scores(loaded, adata):
    tl.annotate(adata, loaded, LABELS)
    scores = adata.obsm["scmmgpt_scores"]
    assert scores.shape == (12, 4)
    assert scores.dtype == np.float32
    assert adata.uns["scmmgpt_labels"].tolist() == LABELS
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
    np.testing.assert_array_equal(adata.obs["scmmgpt_score"], scores.max(1))
    assert (adata.obs["scmmgpt_score"] >= 1 / 4).all()
    assert (adata.obs["scmmgpt_score"] <= 1).all()
    labels, ids = adata.obs["scmmgpt_label"], adata.obs["scmmgpt_label_ontology_term_id"]
    assert isinstance(labels.dtype, pd.CategoricalDtype)
    assert isinstance(ids.dtype, pd.CategoricalDtype)
    assert labels.tolist() == [LABELS[best] for best in scores.argmax(1)]
    assert labels.nunique() > 1  # or nothing below would be shown
    known = {"CD19+ B": "CL:0000236", "NK": "CL:0000623", "CD14+ Monocyte": "CL:0001054", "Vascular": ""}
    assert ids.tolist() == [known[label] for label in labels]


def test_annotate_is_the_nearest_text(loaded, adata):
    texts = {"one": ["A B cell.", "lymphocyte of blood"], "two": ["monocyte"], "three": ["This is a neuron."]}
    tl.annotate(adata, loaded, texts, key_added="near")
    with torch.no_grad():
        means = []
        for each in texts.values():
            rows = [loaded.model.get_text_embeddings(**loaded.processor(text=text)) for text in each]
            mean = torch.cat(rows).mean(0)
            means.append(mean / mean.norm())
        scale = loaded.model.contrastive_head.logit_scale.exp()
    cosine = embeddings_one_by_one(loaded, adata) @ torch.stack(means).numpy().T
    expected = torch.tensor(cosine * scale.item()).softmax(1).numpy()
    np.testing.assert_allclose(adata.obsm["near_scores"], expected, atol=1e-5)
    assert set(adata.obs["near_label"]) <= set(texts)
    assert "scmmgpt_label" not in adata.obs


def test_annotate_leaves_unsure_cells_unassigned(loaded, adata):
    tl.annotate(adata, loaded, LABELS)
    bound = float(adata.obs["scmmgpt_score"].median())
    labels, scores = adata.obs["scmmgpt_label"].to_numpy(str), adata.obs["scmmgpt_score"].to_numpy()
    tl.annotate(adata, loaded, LABELS, min_score=bound)
    unsure = scores < bound
    assert 0 < unsure.sum() < 12
    assert adata.obs["scmmgpt_label"].tolist() == np.where(unsure, "unassigned", labels).tolist()
    assert (adata.obs["scmmgpt_label_ontology_term_id"][unsure] == "").all()
    np.testing.assert_array_equal(adata.obs["scmmgpt_score"], scores)


def test_annotate_names_each_candidate_once(loaded, adata):
    tl.annotate(adata, loaded, ["NK", "CD19+ B", "NK"])
    assert adata.uns["scmmgpt_labels"].tolist() == ["NK", "CD19+ B"]


@pytest.mark.parametrize("batch_size", [1, 5, 64])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_neither_batch_nor_order_changes_a_cell(loaded, adata, batch_size, order):
    tl.annotate(adata, loaded, LABELS)
    tl.embed(adata, loaded)
    part = adata[order].copy()
    expected = {name: part.obsm.pop(name) for name in ("scmmgpt_scores", "X_scmmgpt")}
    tl.annotate(part, loaded, LABELS, batch_size=batch_size)
    tl.embed(part, loaded, batch_size=batch_size)
    for name, values in expected.items():
        np.testing.assert_allclose(part.obsm[name], values, atol=1e-5)
    assert part.obs["scmmgpt_label"].tolist() == adata[order].obs["scmmgpt_label"].tolist()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("NK", "`labels` is the text 'NK': expected a list"),
        (["NK"], r"`labels` holds 1 candidate\(s\): expected at least two"),
        (["NK", "NK"], "holds 1 candidate"),
        ([], "holds 0 candidate"),
        ({"a": ["text"], "b": []}, r"`labels\['b'\]` is \[\]: expected a list of one or more texts"),
        ({"a": ["text"], "b": "a text"}, r"`labels\['b'\]` is 'a text'"),
        ({"a": ["text"], "b": ["text", " "]}, r"`labels\['b'\]`"),
        ({"a": ["text"], "b": [None]}, r"`labels\['b'\]`"),
        (["NK", ""], r"`labels` holds '': expected the names"),
        (["NK", None], r"`labels` holds None: expected the names"),
    ],
)
def test_bad_candidates_are_refused(loaded, adata, labels, message):
    with pytest.raises(ValueError, match=message):
        tl.annotate(adata, loaded, labels)
    assert not adata.obs.columns.size


# Describe


def test_describe_writes_what_generate_says_of_each_cell_alone(loaded, adata):
    tl.describe(adata, loaded, max_new_tokens=6)
    texts = adata.obs["scmmgpt_description"].tolist()
    for i in range(12):
        inputs = loaded.processor(text="<cell> Describe this cell.", cells=adata[i])
        ids = loaded.model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert texts[i] == loaded.processor.decode(ids, skip_special_tokens=True).strip()
    assert len(set(texts)) > 1
    assert all(isinstance(text, str) for text in texts)


@pytest.mark.parametrize("batch_size", [1, 5])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_a_description_is_the_same_in_any_batch_and_order(loaded, adata, batch_size, order):
    tl.describe(adata, loaded, max_new_tokens=6, key_added="text")
    part = adata[order].copy()
    tl.describe(part, loaded, max_new_tokens=6, batch_size=batch_size)
    assert part.obs["scmmgpt_description"].tolist() == part.obs["text"].tolist()


def test_describe_asks_what_it_is_told_to(loaded, adata):
    tl.describe(adata, loaded, max_new_tokens=6)
    tl.describe(adata, loaded, prompt="What type is <cell> of?", key_added="answer", max_new_tokens=6)
    assert (adata.obs["answer"] != adata.obs["scmmgpt_description"]).any()
    for prompt in ("Describe this cell.", "<cell> or <cell>?"):
        with pytest.raises(ValueError, match="expected exactly one <cell>"):
            tl.describe(adata, loaded, prompt=prompt)


# Embed and search


def test_embed_writes_unit_vectors(loaded, adata):
    tl.embed(adata, loaded)
    embeds = adata.obsm["X_scmmgpt"]
    assert embeds.shape == (12, loaded.model.config.contrastive_size)
    assert embeds.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(embeds, embeddings_one_by_one(loaded, adata), atol=1e-5)


def test_search_ranks_by_cosine(loaded, adata):
    best = tl.search(adata, "cytotoxic lymphocytes", loaded)
    with torch.no_grad():
        inputs = loaded.processor(text="cytotoxic lymphocytes")
        query = loaded.model.get_text_embeddings(**inputs)[0].numpy()
    cosine = embeddings_one_by_one(loaded, adata) @ query
    np.testing.assert_allclose(adata.obs["scmmgpt_search"], cosine, atol=1e-5)
    assert sorted(best) == list(range(12))
    assert (np.diff(adata.obs["scmmgpt_search"].to_numpy()[best]) <= 0).all()


def test_search_takes_the_embeddings_that_are_there(loaded, adata):
    tl.embed(adata, loaded, key_added="mine")
    adata.obsm["mine"][:] = adata.obsm["mine"][0]
    best = tl.search(adata, "a monocyte", loaded, embedding_key="mine", key_added="found")
    assert best.tolist() == list(range(12))  # ties keep their order
    assert "X_scmmgpt" not in adata.obsm
    with pytest.raises(ValueError, match="`query` is empty"):
        tl.search(adata, " ", loaded)
    adata.obsm["pca"] = np.ones((12, 3))
    with pytest.raises(ValueError, match=r"`embedding_key`.*'pca'.*width 3.*16"):
        tl.search(adata, "a monocyte", loaded, embedding_key="pca")


# Generate


def dense(adata: anndata.AnnData) -> np.ndarray:
    return adata.X.toarray()


def test_generate_returns_counts_with_names_and_prompts(loaded):
    cells = tl.generate(["A monocyte.", "An NK cell."], loaded, n=[3, 2])
    assert cells.shape == (5, 60)
    assert sparse.issparse(cells.X)
    assert cells.X.dtype == np.int32
    assert cells.X.min() >= 0
    assert cells.X.sum() > 0
    assert cells.var_names.tolist() == GENES
    assert cells.var["ensembl_id"].tolist() == ENSEMBL_IDS
    assert cells.obs["prompt"].tolist() == ["A monocyte."] * 3 + ["An NK cell."] * 2
    assert cells.obs_names.is_unique


def test_generated_cells_repeat_with_the_seed_and_differ_without(loaded):
    one, two, other = (dense(tl.generate("A monocyte.", loaded, n=4, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, two)
    assert not np.array_equal(one, other)
    assert len(np.unique(one, axis=0)) == 4
    torch.manual_seed(99)  # nor does it touch or heed the global source
    state = torch.get_rng_state()
    np.testing.assert_array_equal(one, dense(tl.generate("A monocyte.", loaded, n=4, seed=1)))
    assert torch.equal(state, torch.get_rng_state())


def test_the_cells_of_a_text_do_not_depend_on_the_texts_beside_it(loaded):
    together = tl.generate(["A monocyte.", "A long text about an NK cell of blood."], loaded, n=3)
    alone = tl.generate("A monocyte.", loaded, n=3)
    beside = tl.generate(["A monocyte.", "B"], loaded, n=[3, 1])
    np.testing.assert_array_equal(dense(together)[:3], dense(alone))
    np.testing.assert_array_equal(dense(beside)[:3], dense(alone))
    twice = dense(tl.generate(["A monocyte.", "A monocyte."], loaded, n=3))
    assert not np.array_equal(twice[:3], twice[3:])


def test_the_text_decides(loaded):
    one, two = (dense(tl.generate(text, loaded, n=200)).mean(0) for text in ("A monocyte.", "human blood"))
    assert np.abs(one - two).sum() > 0.05 * one.sum()


def test_a_panel_restricts_the_genes_and_keeps_their_shares(loaded):
    genes = [GENES[3], ENSEMBL_IDS[20], GENES[7].lower()]
    panel = tl.generate("A monocyte.", loaded, n=4000, genes=genes)
    assert panel.var_names.tolist() == [GENES[3], GENES[7], GENES[20]]
    panel, whole = dense(panel), dense(tl.generate("A monocyte.", loaded, n=4000))[:, [3, 7, 20]]
    # The seed draws the same cells; how much of each cell lies in the panel is another matter than the shares there.
    deep = (panel.sum(1) >= 10) & (whole.sum(1) >= 10)
    assert deep.sum() > 30
    shares = [counts[deep] / counts[deep].sum(1, keepdims=True) for counts in (panel, whole)]
    np.testing.assert_allclose(shares[0].mean(0), shares[1].mean(0), atol=0.06)
    assert np.abs(shares[0] - shares[1]).mean() < 0.1


def test_any_number_of_cells_may_be_asked_for(loaded):
    many = dense(tl.generate("A monocyte.", loaded, n=600))  # more than are drawn at a time
    assert len(many) == 600
    assert len(np.unique(many, axis=0)) > 580  # cells of a count or two may be alike
    assert tl.generate("A monocyte.", loaded, n=np.int64(2)).n_obs == 2
    assert tl.generate(["A monocyte.", "B"], loaded, n=np.array([1, 2])).n_obs == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "A B cell.", "n": 0}, r"`n` is 0 for 1 text\(s\): expected one positive number"),
        ({"text": "A B cell.", "n": 1.5}, "`n` is 1.5"),
        ({"text": "A B cell.", "n": "two"}, "`n` is 'two'"),
        ({"text": "A B cell.", "n": [1, 2]}, r"`n` is \[1, 2\] for 1 text\(s\)"),
        ({"text": [], "n": []}, r"`n` is \[\] for 0 text\(s\)"),
        ({"text": " "}, "`text` must be a string"),
        ({"text": ["A B cell.", None]}, "`text` is .*None.*: expected a description"),
        ({"text": "<cell> again"}, "placeholder"),
        ({"text": "A B cell.", "genes": ["GENE1", "TP53"]}, r"`genes` names 1 that the model does not know.*'TP53'"),
        ({"text": "A B cell.", "genes": "GENE1"}, "`genes` is the text 'GENE1': expected a list"),
        ({"text": "A B cell.", "genes": []}, "`genes` is empty"),
        ({"text": "A B cell.", "guidance_scale": float("nan")}, "`guidance_scale`=nan"),
        ({"text": "A B cell.", "num_flow_steps": 0}, "`num_flow_steps`=0"),
        ({"text": "A B cell.", "seed": -1}, "`seed` is -1: expected a whole number, 0 or more"),
    ],
)
def test_bad_requests_are_refused(loaded, arguments, message):
    with pytest.raises(ValueError, match=message):
        tl.generate(model=loaded, **arguments)


# Where the counts are


def test_counts_may_be_dense_in_a_layer_or_in_a_file(loaded, adata, tmp_path):
    tl.embed(adata, loaded)
    expected = adata.obsm["X_scmmgpt"]
    dense_cells = anndata.AnnData(adata.X.toarray(), var=adata.var)
    layered = anndata.AnnData(np.log1p(adata.X.toarray()), var=adata.var, layers={"counts": adata.X.tocsc()})
    by_ensembl = anndata.AnnData(adata.X, var=pd.DataFrame(index=ENSEMBL_IDS))
    adata.write_h5ad(tmp_path / "cells.h5ad")
    backed = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    for cells, layer in ((dense_cells, None), (layered, "counts"), (by_ensembl, None), (backed, None)):
        tl.embed(cells, loaded, key_added="again", layer=layer)
        np.testing.assert_allclose(cells.obsm["again"], expected, atol=1e-6)
    tl.annotate(layered, loaded, LABELS, layer="counts")
    tl.describe(layered, loaded, layer="counts", max_new_tokens=1)
    tl.search(layered, "a monocyte", loaded, layer="counts")
    assert {"scmmgpt_label", "scmmgpt_description", "scmmgpt_search"} <= set(layered.obs)


def test_results_can_be_written(loaded, adata, tmp_path):
    tl.annotate(adata, loaded, LABELS)
    tl.describe(adata, loaded, max_new_tokens=2)
    tl.search(adata, "a monocyte", loaded)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    assert again.uns["scmmgpt_labels"].tolist() == LABELS
    assert again.obs["scmmgpt_description"].tolist() == adata.obs["scmmgpt_description"].tolist()
    generated = tl.generate("A monocyte.", loaded, n=2)
    generated.write_h5ad(tmp_path / "generated.h5ad")
    assert (anndata.read_h5ad(tmp_path / "generated.h5ad").X != generated.X).nnz == 0


@pytest.mark.parametrize("function", [tl.embed, tl.describe, lambda *a, **k: tl.annotate(*a, labels=LABELS, **k)])
def test_unusable_cells_are_refused(loaded, adata, function):
    logged = adata.copy()
    logged.X = logged.X.log1p()
    with pytest.raises(ValueError, match="raw counts"):
        function(logged, loaded)
    with pytest.raises(ValueError, match="no layer 'counts'"):
        function(adata, loaded, layer="counts")
    with pytest.raises(ValueError, match="`batch_size`=0"):
        function(adata, loaded, batch_size=0)
    strange = adata.copy()
    strange.var_names = [f"X{i}" for i in range(60)]
    with pytest.raises(ValueError, match="0 of 60 genes matched"):
        function(strange, loaded)


# Loading


def test_a_model_may_be_a_folder(loaded, adata, tmp_path):
    loaded.model.save_pretrained(tmp_path / "model")
    loaded.processor.save_pretrained(tmp_path / "model")
    again = tl.load(tmp_path / "model", device="cpu")
    assert again.model.training is False
    assert tl.load(again) is again
    tl.embed(adata, loaded)
    tl.embed(adata, tmp_path / "model", key_added="again")
    np.testing.assert_allclose(adata.obsm["again"], adata.obsm["X_scmmgpt"], atol=1e-6)
    assert tl.load(str(tmp_path / "model"), "cpu", torch.bfloat16).model.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "missing", ["everything", "config.json", "model_type", "model.safetensors", "processor_config.json"]
)
def test_an_incomplete_folder_is_refused(loaded, tmp_path, missing):
    folder = tmp_path / "model"
    if missing != "everything":
        loaded.model.save_pretrained(folder)
        loaded.processor.save_pretrained(folder)
        if missing == "model_type":
            (folder / "config.json").write_text('{"model_type": "gpt2"}')
        else:
            (folder / missing).unlink()
    with pytest.raises(ValueError, match=r"`model` is '.*', where no complete model can be read"):
        tl.load(folder)


def test_annotate_weighs_by_the_prior(loaded, adata):
    shares = {"CD19+ B": 0.7, "NK": 0.1, "CD14+ Monocyte": 0.1, "Vascular": 0.1}
    tl.annotate(adata, loaded, LABELS, key_added="plain")
    tl.annotate(adata, loaded, LABELS, prior=shares, key_added="weighed")
    posterior = adata.obsm["plain_scores"] * np.array([shares[label] for label in LABELS])  # Bayes
    np.testing.assert_allclose(adata.obsm["weighed_scores"], posterior / posterior.sum(1, keepdims=True), atol=1e-6)
    with pytest.raises(ValueError, match="positive number for every label"):
        tl.annotate(adata, loaded, LABELS, prior={"NK": 1.0})
