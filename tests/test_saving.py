"""What survives saving, another dtype or device, compilation, checkpointing, freezing and a resized vocabulary."""

import json

import pytest
import torch
from safetensors.torch import load_file

from scmmgpt import ScMMGPTCellModel, ScMMGPTForConditionalGeneration

from .tiny import CELL_FIELDS, WORDS, make_batch, make_cells, make_model


def loss_of(model, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    torch.manual_seed(1)  # noise of the flow and negatives of the matching
    return model(**batch).loss


def architecture(config: dict) -> dict:
    """Without the dtype and the folder, which only a model that was loaded knows."""
    known = {name: value for name, value in config.items() if name not in ("dtype", "_name_or_path")}
    return {name: architecture(value) if isinstance(value, dict) else value for name, value in known.items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("text", ["llama", "gpt2"])
def test_round_trip_is_exact(text, tied, tmp_path):
    model = make_model(text=text, tied=tied)
    model.save_pretrained(tmp_path)
    loaded, info = ScMMGPTForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    before = dict(model.named_parameters()) | dict(model.named_buffers())
    after = dict(loaded.named_parameters()) | dict(loaded.named_buffers())
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    shared = loaded.get_input_embeddings().weight is loaded.get_output_embeddings().weight
    assert shared == tied
    assert ("language_model.lm_head.weight" in load_file(tmp_path / "model.safetensors")) == (not tied)
    assert torch.equal(loss_of(model, make_batch()), loss_of(loaded.eval(), make_batch()))
    assert architecture(loaded.config.to_dict()) == architecture(model.config.to_dict())


@pytest.mark.parametrize("text", ["llama", "gpt2"])
def test_tied_embeddings_stay_tied(text):
    model = make_model(text=text, tied=True)
    loss_of(model, make_batch()).backward()
    assert model.get_input_embeddings().weight.grad is model.get_output_embeddings().weight.grad
    model.resize_token_embeddings(len(WORDS) + 5)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype, tmp_path):
    model, batch = make_model(), make_batch()
    model.save_pretrained(tmp_path)
    half = ScMMGPTForConditionalGeneration.from_pretrained(tmp_path, dtype=dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    # a mean log library size of 7 in bfloat16 would be off by 2 %
    kept = (half.cell_generator.target_mean, half.cell_generator.target_std, half.cell_model.gene_profile)
    assert {buffer.dtype for buffer in kept} == {torch.float32}
    for name, value in model(**batch).items():
        if name.endswith("_loss") and name not in ("flow_loss", "matching_loss"):
            torch.testing.assert_close(half(**batch)[name].float(), value, atol=0.05, rtol=0.05)
    assert loss_of(half, batch).isfinite()
    cells = half.generate(batch["condition_input_ids"], generation_mode="cell")
    assert cells.counts.dtype == torch.float32
    assert cells.counts.isfinite().all()


def test_autocast_trains():
    model, batch = make_model().train(), make_batch()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(model, batch)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(loss, loss_of(make_model().train(), batch), atol=0.3, rtol=0.03)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}])
def test_device_map(device_map, tmp_path):
    model, batch = make_model(), make_batch()
    model.save_pretrained(tmp_path)
    loaded = ScMMGPTForConditionalGeneration.from_pretrained(tmp_path, device_map=device_map).eval()
    assert torch.equal(loss_of(model, batch), loss_of(loaded, batch))


PARTS = [name for name, _ in make_model().named_children()]


@pytest.mark.parametrize("part", ["language_model", "language_model.model"])
def test_the_language_model_may_be_offloaded(part, tmp_path):
    model, batch = make_model(), make_batch()
    model.save_pretrained(tmp_path)
    others = [name for name in PARTS if name != "language_model"]
    if part != "language_model":
        others.append("language_model.lm_head")
    device_map = dict.fromkeys(others, "cpu") | {part: "disk"}
    loaded = ScMMGPTForConditionalGeneration.from_pretrained(
        tmp_path, device_map=device_map, offload_folder=tmp_path / "offload"
    ).eval()
    with torch.no_grad():
        assert torch.equal(loss_of(model, batch), loss_of(loaded, batch))


@pytest.mark.parametrize("part", [name for name in PARTS if name != "language_model"])
def test_other_parts_stay_together(part, tmp_path):
    make_model().save_pretrained(tmp_path)
    device_map = dict.fromkeys(PARTS, "cpu") | {part: "disk"}
    with pytest.raises(ValueError, match=r"`language_model` on \['cpu', 'disk'\]; they have to share one device"):
        ScMMGPTForConditionalGeneration.from_pretrained(
            tmp_path, device_map=device_map, offload_folder=tmp_path / "offload"
        )


def test_cell_encoder_out_of_a_whole_model(tmp_path):
    model = make_model()
    model.save_pretrained(tmp_path / "whole")
    model.cell_model.save_pretrained(tmp_path / "part")
    for folder in ("whole", "part"):
        encoder, info = ScMMGPTCellModel.from_pretrained(tmp_path / folder, output_loading_info=True)
        assert not any(info.values()), info
        weights = model.cell_model.state_dict()
        assert all(torch.equal(weights[name], value) for name, value in encoder.state_dict().items())
    assert json.loads((tmp_path / "part" / "config.json").read_text())["model_type"] == "scmmgpt_cell"


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_changes_no_gradient(use_reentrant):
    batch, gradients = make_batch(), []
    for checkpointing in (False, True):
        model = make_model().train()
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
            model.enable_input_require_grads()
        loss = loss_of(model, batch)
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()} | {"loss": loss.detach()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-5, rtol=1e-5)


def test_frozen_parts_get_no_gradient_and_the_others_do():
    model = make_model().train()
    for part in (model.cell_model, model.language_model):
        part.requires_grad_(False)
    loss_of(model, make_batch()).backward()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("cell_model.", "language_model."))
        assert (parameter.grad is None) == frozen, name


def test_resize_token_embeddings_resizes_the_text_tower(tmp_path):
    model, batch = make_model(), make_batch()
    before = loss_of(model, batch)
    model.resize_token_embeddings(len(WORDS) + 3)
    tower = model.qformer.text_embeddings.word_embeddings
    assert model.get_input_embeddings().num_embeddings == tower.num_embeddings == len(WORDS) + 3
    assert model.get_output_embeddings().out_features == len(WORDS) + 3
    assert model.config.text_config.vocab_size == model.config.qformer_config.vocab_size == len(WORDS) + 3
    # with more words to choose from the language loss changes, nothing else
    kept = dict(batch)
    del kept["labels"]
    torch.testing.assert_close(loss_of(model, kept), loss_of(make_model(), kept))
    assert loss_of(model, batch) != before
    model.get_text_embeddings(torch.tensor([[len(WORDS) + 2]]))
    model.save_pretrained(tmp_path)
    loaded, info = ScMMGPTForConditionalGeneration.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values()), info
    assert torch.equal(loss_of(loaded.eval(), batch), loss_of(model, batch))


@pytest.fixture
def compiler():
    """torch.compile with nothing of earlier tests in its caches."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize("panel_embedding", [True, False])
def test_cell_encoder_compiles_without_a_graph_break(panel_embedding, compiler):
    model = make_model(cell={"use_panel_embedding": panel_embedding}).cell_model
    cells = {name: make_cells(3)[name] for name in CELL_FIELDS}
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        expected = model(**cells).last_hidden_state
        torch.testing.assert_close(compiled(**cells).last_hidden_state, expected, atol=1e-5, rtol=1e-5)


def test_whole_forward_compiles(compiler):
    model, batch = make_model(), make_batch()
    deterministic = {k: v for k, v in batch.items() if not k.startswith(("description_", "condition_"))}
    expected = model(**deterministic)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(**deterministic)
    for name in ("loss", "logits", "cell_latents", "language_loss", "cell_reconstruction_loss"):
        torch.testing.assert_close(compiled[name], expected[name], atol=1e-5, rtol=1e-5)


def test_every_loss_compiles(compiler):
    model, batch = make_model().train(), make_batch()
    loss = torch.compile(model, backend="aot_eager", fullgraph=True)(**batch).loss
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
