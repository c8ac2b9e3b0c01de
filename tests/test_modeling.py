"""The numbers of the forward pass: against an independent scGPT, across attention paths, batches and paddings."""

import pytest
import torch
from torch import nn

from scmmgpt import ScMMGPTCellModel
from scmmgpt.modeling_scmmgpt import ScMMGPTValueHead

from .tiny import (
    CELL,
    CELL_FIELDS,
    CLS_GENE,
    EOC_GENE,
    GENES,
    NUM_CELL_TOKENS,
    PAD,
    PAD_GENE,
    make_batch,
    make_cell_config,
    make_cells,
    make_model,
    make_texts,
)

LOSSES = (
    "cell_reconstruction_loss",
    "masked_expression_loss",
    "contrastive_loss",
    "matching_loss",
    "language_loss",
    "flow_loss",
)


def only_cells(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in CELL_FIELDS}


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def encode(model, cells: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """All that the model says of a cell and that does not depend on how the cell was padded."""
    with torch.no_grad():
        features = model.get_cell_features(**cells)
        states = features.last_hidden_state
        latents = model.expression_head.encode(states[:, 0])
        panel_mask = model.panel_mask(cells["panel_gene_ids"], cells["cell_panel_index"])
        prompts = torch.tensor([[2] + [CELL] * NUM_CELL_TOKENS + [5, 6]]).expand(len(states), -1)
        return {
            "state": states[:, 0],
            "embedding": model.get_cell_embeddings(**cells),
            "tokens": features.pooler_output,
            "latent": latents,
            "proportions": model.expression_log_probs(latents, panel_mask).exp(),
            "logits": model(input_ids=prompts, **cells).logits,
        }


# --- the cell encoder is scGPT's


class ReferenceEncoder(nn.Module):
    """scGPT's encoder from PyTorch's own parts, with the weights of ours."""

    def __init__(self, model: ScMMGPTCellModel) -> None:
        super().__init__()
        config, weights = model.config, model.state_dict()
        self.layers = nn.ModuleList()
        for i in range(config.num_hidden_layers):
            layer = nn.TransformerEncoderLayer(
                config.hidden_size,
                config.num_attention_heads,
                config.intermediate_size,
                dropout=0.0,
                activation="relu",
                norm_first=False,
                batch_first=True,
            )
            names = {"self_attn.in_proj_": "self_attn.qkv_proj.", "self_attn.out_proj.": "self_attn.out_proj."}
            names |= {"linear1.": "fc1.", "linear2.": "fc2.", "norm1.": "attn_norm.", "norm2.": "mlp_norm."}
            layer.load_state_dict(
                {
                    ours + part: weights[f"layers.{i}.{theirs}{part}"]
                    for ours, theirs in names.items()
                    for part in ("weight", "bias")
                }
            )
            self.layers.append(layer)
        self.weights = {name.removeprefix("embeddings."): value for name, value in weights.items()}

    def _norm(self, name: str, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        centred = x - x.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * weight + bias

    def forward(self, ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        w = self.weights
        genes = self._norm("gene_norm", w["gene_embeddings.weight"][ids])
        x = values.clamp(max=512)[..., None] @ w["value_in.weight"].T + w["value_in.bias"]
        x = x.clamp(min=0) @ w["value_out.weight"].T + w["value_out.bias"]
        hidden = genes + self._norm("value_norm", x)
        for layer in self.layers:
            hidden = layer(hidden, src_key_padding_mask=ids == PAD_GENE)
        return hidden


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("padded", [True, False])
def test_encoder_is_scgpt(num_layers, padded, attention):
    config = make_cell_config(num_hidden_layers=num_layers, use_panel_embedding=False, attn_implementation=attention)
    model = ScMMGPTCellModel(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    cells = make_cells(4 if padded else 1)
    ids, values, mask = (cells[name] for name in CELL_FIELDS[:3])
    values[0, 3] = 1e4  # above max_value
    values[0, 4] = -1.0  # masked
    assert padded == (mask == 0).any()
    with torch.no_grad():
        ours = model(ids, values, cell_attention_mask=mask)
        reference = ReferenceEncoder(model)(ids, values)
    close(ours.last_hidden_state[mask == 1], reference[mask == 1])
    close(ours.pooler_output, reference[:, 0])


def test_value_head_is_scgpts_expression_decoder():
    head = ScMMGPTValueHead(make_cell_config())
    layers = (head.fc1, nn.LeakyReLU(0.01), head.fc2, nn.LeakyReLU(0.01), head.fc3)
    states = torch.randn(2, 5, 32)
    close(head(states), nn.Sequential(*layers)(states).squeeze(-1))


def test_expression_head_is_scgpts_mvc_decoder():
    head = make_model().expression_head
    latents, genes = torch.randn(3, 8), torch.randn(11, 32)
    cell = head.latent_out(nn.functional.gelu(head.latent_in(latents)))  # scGPT's cell embedding
    query = torch.sigmoid(genes @ head.gene_query.weight.T + head.gene_query.bias)
    expected = torch.einsum("gd,ed,ce->cg", query, head.query_proj.weight, cell)
    with torch.no_grad():
        head.gene_bias.zero_()
        head.gene_bias.data = head.gene_bias[:11]
    close(head(latents, genes), expected)


def test_latent_has_zero_mean_and_unit_scale():
    latent = make_model().expression_head.encode(torch.randn(4, 32) * 100)
    close(latent.mean(-1), torch.zeros(4))
    close(latent.var(-1, correction=0), torch.ones(4), 1e-3)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_cell_is_a_set(norm_first):
    model, cells = make_model(cell={"norm_first": norm_first}), make_cells(1)
    order = torch.cat([torch.tensor([0]), 1 + torch.randperm(cells["cell_gene_ids"].shape[1] - 1)])
    shuffled = cells | {name: cells[name][:, order] for name in CELL_FIELDS[:3]}
    for name, value in encode(model, only_cells(cells)).items():
        close(encode(model, only_cells(shuffled))[name], value)


# --- eager and sdpa


@pytest.mark.parametrize("panel_embedding", [True, False])
def test_eager_and_sdpa_agree(panel_embedding, tmp_path):
    make_model(cell={"use_panel_embedding": panel_embedding}).save_pretrained(tmp_path)
    batch, outputs = make_batch(4), []
    for attention in ("eager", "sdpa"):
        model = type(make_model()).from_pretrained(tmp_path, attn_implementation=attention).eval()
        assert {m.config._attn_implementation for m in model.modules() if hasattr(m, "config")} == {attention}
        torch.manual_seed(1)
        with torch.no_grad():
            outputs.append((model(**batch), encode(model, only_cells(batch))))
    (eager, eager_cells), (sdpa, sdpa_cells) = outputs
    for name in (*LOSSES, "loss"):
        close(eager[name], sdpa[name])
    close(eager.logits[batch["attention_mask"] == 1], sdpa.logits[batch["attention_mask"] == 1])
    for name, value in eager_cells.items():
        close(sdpa_cells[name], value)


# --- one cell, whatever its company


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.mark.parametrize("panel_embedding", [True, False])
def test_a_cell_alone_in_a_batch_and_in_any_order(panel_embedding):
    model = make_model(cell={"use_panel_embedding": panel_embedding})
    cells = only_cells(make_cells(5))
    together = encode(model, cells)
    order = torch.tensor([3, 0, 4, 2, 1])
    reordered = encode(model, {k: v if k == "panel_gene_ids" else v[order] for k, v in cells.items()})
    for name, value in together.items():
        close(reordered[name], value[order])
    for i in range(5):
        length = cells["cell_attention_mask"][i].sum()
        alone = {name: cells[name][i : i + 1, :length] for name in CELL_FIELDS[:3]}
        # its own panel, without the padding that a longer panel of a batch mate needs
        panel = cells["panel_gene_ids"][cells["cell_panel_index"][i]]
        alone["panel_gene_ids"] = panel[panel != PAD_GENE][None]
        alone["cell_panel_index"] = torch.tensor([0])
        for name, value in encode(model, alone).items():
            close(value[0], together[name][i])


def test_more_padding_changes_nothing(model):
    cells = only_cells(make_cells(3))
    longer = dict(cells)
    for name, fill in (("cell_gene_ids", PAD_GENE), ("cell_values", -2.0), ("cell_attention_mask", 0)):
        longer[name] = nn.functional.pad(cells[name], (0, 9), value=fill)
    longer["panel_gene_ids"] = nn.functional.pad(cells["panel_gene_ids"], (0, 4), value=PAD_GENE)
    expected = encode(model, cells)
    for name, value in encode(model, longer).items():
        close(value, expected[name])


def test_panels_of_batch_mates_do_not_matter_but_the_own_does(model):
    cells = only_cells(make_cells(2))
    other = dict(cells, panel_gene_ids=cells["panel_gene_ids"].clone())
    other["panel_gene_ids"][0, 50:] = PAD_GENE
    before, after = encode(model, cells), encode(model, other)
    for name, value in before.items():
        close(after[name][1], value[1])
    assert (before["state"][0] - after["state"][0]).abs().max() > 1e-3
    assert (after["proportions"][0, 50:] == 0).all()
    close(after["proportions"].sum(-1), torch.ones(2))


def test_cells_without_panel_index_share_the_first_panel(model):
    cells = only_cells(make_cells(4))
    cells["cell_panel_index"] = torch.zeros(4, dtype=torch.long)
    expected = encode(model, cells)
    with torch.no_grad():
        features = model.get_cell_features(**{k: v for k, v in cells.items() if k != "cell_panel_index"})
    close(features.pooler_output, expected["tokens"])
    close(model.panel_mask(cells["panel_gene_ids"]).float(), torch.cat([torch.ones(60), torch.zeros(3)])[None])


def test_mask_defaults_to_all_real(model):
    cells = only_cells(make_cells(1))
    without = {name: value for name, value in cells.items() if name != "cell_attention_mask"}
    close(model.get_cell_embeddings(**without), model.get_cell_embeddings(**cells))


# --- text


def pad_left(ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = mask.argsort(dim=-1, stable=True)
    return ids.gather(1, order), mask.gather(1, order)


@pytest.mark.parametrize("text", ["llama", "gpt2", "qwen3", "gemma2"])
def test_side_and_amount_of_padding_change_no_text(text):
    model = make_model(text=text)
    ids, mask = make_texts(4)
    left_ids, left_mask = pad_left(ids, mask)
    assert not torch.equal(ids, left_ids)
    with torch.no_grad():
        for of_text in (model.get_text_embeddings, model.get_condition_tokens):
            right = of_text(ids, mask)
            close(of_text(left_ids, left_mask), right)
            close(of_text(nn.functional.pad(ids, (5, 0), value=PAD), nn.functional.pad(mask, (5, 0))), right)
            close(of_text(ids[:1]), right[:1])  # the first has no padding


@pytest.mark.parametrize("text", ["llama", "gpt2", "qwen3", "gemma2"])
def test_every_text_model_trains_and_generates(text):
    model, batch = make_model(text=text).train(), make_batch()
    output = model(**batch)
    assert set(LOSSES) <= set(output)
    output.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    model.eval()
    prompt = {name: batch[name] for name in ("input_ids", "attention_mask", *CELL_FIELDS)}
    prompt["input_ids"], prompt["attention_mask"] = pad_left(prompt["input_ids"], prompt["attention_mask"])
    generated = model.generate(**prompt, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    assert generated.shape == (3, prompt["input_ids"].shape[1] + 6)
    cells = model.generate(*make_texts(2)[:1], generation_mode="cell")
    assert cells.counts.shape == (2, 60)


@pytest.mark.parametrize("text", ["llama", "gpt2", "gemma2"])
def test_cached_and_uncached_logits_agree(text):
    model, batch = make_model(text=text), make_batch(2)
    cells = only_cells(batch)
    ids = batch["input_ids"][:1]
    cells = {k: v if k == "panel_gene_ids" else v[:1] for k, v in cells.items()}
    with torch.no_grad():
        full = model(input_ids=ids, **cells).logits
        start = model(input_ids=ids[:, :6], use_cache=True, **cells)
        close(start.logits, full[:, :6])
        cache = start.past_key_values
        for i in range(6, ids.shape[1]):
            step = model(input_ids=ids[:, i : i + 1], past_key_values=cache, use_cache=True)
            close(step.logits[:, 0], full[:, i])
            cache = step.past_key_values
        close(model(input_ids=ids, logits_to_keep=1, **cells).logits, full[:, -1:])


def test_embeddings_in_place_of_ids(model):
    batch = make_batch()
    cells = only_cells(batch)
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with torch.no_grad():
        expected = model(input_ids=batch["input_ids"], **cells).logits
        close(model(inputs_embeds=embeds, **cells).logits, expected)


def test_placeholders_and_cells_must_agree(model):
    batch = make_batch()
    two = {k: v if k == "panel_gene_ids" else v[:2] for k, v in only_cells(batch).items()}
    with pytest.raises(ValueError, match=r"9 cell placeholder tokens, but 2 cells need 2 x 3"):
        model(input_ids=batch["input_ids"], **two)
    with pytest.raises(ValueError, match="`panel_gene_ids` is missing"):
        model(cell_gene_ids=batch["cell_gene_ids"], cell_values=batch["cell_values"])


def test_text_tower_names_what_is_too_long(model):
    with pytest.raises(ValueError, match="`input_ids` has 65 tokens; the model reads at most 64"):
        model.get_text_embeddings(torch.full((1, 65), 7))


def test_cls_is_not_a_gene(model):
    assert not model.panel_mask(torch.tensor([[1, CLS_GENE, PAD_GENE]]))[0, [CLS_GENE, PAD_GENE]].any()


def test_eoc_is_not_a_gene_where_the_vocabulary_has_one():
    config = make_cell_config()
    model = ScMMGPTCellModel(config)
    assert model.gene_profile.nonzero().flatten().tolist() == list(range(len(GENES)))
    torch.testing.assert_close(model.gene_profile.sum(), torch.tensor(1.0))
    assert model.panel_mask(torch.tensor([[1, EOC_GENE]])).nonzero().tolist() == [[0, 1]]
