"""Each loss against a closed form computed here, and the flow against an equation with a known solution."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from transformers import Trainer, TrainerCallback, TrainingArguments

from scmmgpt.modeling_scmmgpt import _draw_negatives

from .tiny import PAD, PAD_GENE, WORDS, make_batch, make_cells, make_model

NUM_TOKENS = 63


@pytest.fixture(scope="module")
def model():
    return make_model()


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(a, b, atol=tolerance, rtol=tolerance)


def test_loss_is_the_sum_of_the_parts_that_the_inputs_allow(model):
    batch = make_batch()
    output = model(**batch)
    parts = {name: value for name, value in output.items() if name.endswith("_loss")}
    assert len(parts) == 6
    close(output.loss, sum(parts.values()))
    drops = {
        ("target_", "condition_"): {"cell_reconstruction_loss", "flow_loss"},
        "cell_value_labels": {"masked_expression_loss"},
        "description_": {"contrastive_loss", "matching_loss"},
        "labels": {"language_loss"},
        "condition_": {"flow_loss"},
    }
    for names, lost in drops.items():
        fewer = model(**{k: v for k, v in batch.items() if not k.startswith(names)})
        assert {k for k in fewer if k.endswith("_loss")} == set(parts) - lost
    nothing = model(input_ids=torch.tensor([[7, 8]]))
    assert nothing.loss is None
    assert nothing.logits.shape == (1, 2, len(WORDS))


def test_reconstruction_is_the_multinomial_likelihood(model):
    cells = make_cells(4)
    output = model(**cells)
    expected = []
    for i in range(4):
        panel = cells["panel_gene_ids"][cells["cell_panel_index"][i]]
        panel = panel[panel != PAD_GENE]
        counts = torch.zeros(NUM_TOKENS)
        real = cells["target_gene_ids"][i] != PAD_GENE
        counts[cells["target_gene_ids"][i][real]] = cells["target_counts"][i][real]
        counts = counts[panel]
        mask = model.panel_mask(panel[None])
        log_probs = model.expression_log_probs(output.cell_latents[i : i + 1], mask)[0, panel]
        close(log_probs.exp().sum(), torch.tensor(1.0))
        total = int(counts.sum())
        likelihood = torch.distributions.Multinomial(total, logits=log_probs).log_prob(counts)
        constant = math.lgamma(total + 1) - sum(math.lgamma(float(c) + 1) for c in counts)
        expected.append(-(likelihood - constant) / total)
    close(output.cell_reconstruction_loss, torch.stack(expected).mean())


def test_masked_expression_is_a_mean_of_squares(model):
    batch = make_batch()
    output = model(**batch)
    squares = []
    for state, label in zip(
        output.cell_hidden_states.flatten(0, 1), batch["cell_value_labels"].flatten(), strict=True
    ):
        if label != -100:
            squares.append((model.value_head(state[None])[0] - label) ** 2)
    assert 3 <= len(squares) < batch["cell_values"].numel()
    close(output.masked_expression_loss, torch.stack(squares).mean())


TRUE_OF = {
    "its own cell": np.eye(5, dtype=bool),
    "cells of a group": np.equal.outer([0, 1, 0, 2, 0], [0, 1, 0, 2, 0]),
    "every cell": np.ones((5, 5), dtype=bool),
    # text 0 says so little that it is true of three cells, whose own texts say more
    "more general texts": np.eye(5, dtype=bool) | (np.outer([1, 0, 0, 0, 0], [1, 1, 0, 1, 0]) > 0),
}


@pytest.mark.parametrize("case", TRUE_OF)
def test_contrastive_is_info_nce_with_shared_positives(model, case):
    batch = make_batch(5)
    is_true = TRUE_OF[case]  # texts x cells
    batch["description_is_true"] = torch.tensor(is_true)
    cells = {k: v for k, v in batch.items() if k.startswith(("cell_", "panel_")) and k != "cell_value_labels"}
    similarity = model.contrastive_head.logit_scale.exp() * (
        model.get_cell_embeddings(**cells)
        @ model.get_text_embeddings(batch["description_input_ids"], batch["description_attention_mask"]).T
    )
    terms = []
    for scores, positive in ((similarity, is_true.T), (similarity.T, is_true)):
        for i in range(5):
            log_probs = [scores[i, j] - scores[i].logsumexp(0) for j in np.flatnonzero(positive[i])]
            terms.append(-sum(log_probs) / len(log_probs))
    close(model(**batch).contrastive_loss, torch.stack(terms).mean())


def test_a_text_is_true_of_its_own_cell_alone_when_nothing_is_said(model):
    batch = make_batch(4)
    alone = {k: v for k, v in batch.items() if k != "description_is_true"}
    close(model(**batch).contrastive_loss, model(**alone).contrastive_loss)


def test_cells_with_one_text_are_positives_of_each_other(model):
    batch = make_batch(4)
    for name in ("description_input_ids", "description_attention_mask"):
        batch[name][2] = batch[name][0]
    batch["description_input_ids"][batch["description_attention_mask"] == 0] = PAD + 5  # what pads is no matter
    told = dict(batch, description_is_true=torch.tensor([0, 1, 0, 2])[:, None] == torch.tensor([0, 1, 0, 2]))
    close(model(**batch).contrastive_loss, model(**told).contrastive_loss)


def test_matching_scores_pairs(model):
    """Two cells of two descriptions: the negatives are certain, so the loss is, too."""
    batch = make_batch(2)
    output = model(**batch)
    ids, mask = batch["description_input_ids"], batch["description_attention_mask"]
    states, cell_mask = output.cell_hidden_states, batch["cell_attention_mask"]
    losses = []
    for text, cell in ((0, 0), (1, 1), (0, 1), (1, 0), (0, 1), (1, 0)):
        length = mask[text].sum()
        queries = model.qformer.encode_pairs(
            ids[text : text + 1, :length], mask[text : text + 1, :length], states[[cell]], cell_mask[[cell]]
        )
        losses.append(F.cross_entropy(model.matching_head(queries.mean(1)), torch.tensor([int(text == cell)])))
    close(output.matching_loss, torch.stack(losses).mean())


def test_matching_without_any_negative_counts_the_positives_only(model):
    batch = make_batch(3)
    batch["description_is_true"] = torch.ones(3, 3, dtype=torch.bool)
    output = model(**batch)
    queries = model.qformer.encode_pairs(
        batch["description_input_ids"],
        batch["description_attention_mask"],
        output.cell_hidden_states,
        batch["cell_attention_mask"],
    )
    expected = F.cross_entropy(model.matching_head(queries.mean(1)), torch.ones(3, dtype=torch.long))
    close(output.matching_loss, expected)


def test_matching_has_no_false_negative(model):
    """Text 0 is true of both cells, text 1 of its own: cell 1 has no wrong text, and text 0 no wrong cell."""
    batch = make_batch(2)
    batch["description_is_true"] = torch.tensor([[True, True], [False, True]])
    output = model(**batch)
    ids, mask = batch["description_input_ids"], batch["description_attention_mask"]
    states, cell_mask = output.cell_hidden_states, batch["cell_attention_mask"]
    losses = []
    # two positives; cell 0 with the wrong text 1, and text 1 with the wrong cell 0
    for text, cell, label in ((0, 0, 1), (1, 1, 1), (1, 0, 0), (1, 0, 0)):
        queries = model.qformer.encode_pairs(ids[[text]], mask[[text]], states[[cell]], cell_mask[[cell]])
        losses.append(F.cross_entropy(model.matching_head(queries.mean(1)), torch.tensor([label])))
    close(output.matching_loss, torch.stack(losses).mean())


@given(
    groups=st.lists(st.integers(0, 3), min_size=2, max_size=8).filter(lambda groups: len(set(groups)) > 1),
    scale=st.sampled_from([0.0, 1.0, 100.0, 1e4]),
    seed=st.integers(0, 10_000),
)
@settings(max_examples=100)
def test_negatives_are_never_positives(groups, scale, seed):
    generator = torch.Generator().manual_seed(seed)
    groups = torch.tensor(groups)
    positives = groups[:, None] == groups[None]
    similarity = scale * torch.randn(len(groups), len(groups), generator=generator)
    similarity = similarity + scale * positives  # the positives look best
    drawn = _draw_negatives(similarity, positives)
    assert not positives[torch.arange(len(groups)), drawn].any()


def test_hard_negatives_are_drawn_more_often():
    similarity = torch.tensor([[9.0, 4.0, 0.0]]).expand(500, -1)
    positives = torch.tensor([[True, False, False]]).expand(500, -1)
    drawn = _draw_negatives(similarity, positives)
    expected = math.exp(4) / (math.exp(4) + 1)
    assert abs((drawn == 1).float().mean() - expected) < 0.03


def test_language_is_the_cross_entropy_of_the_next_token(model):
    batch = make_batch()
    output = model(**batch)
    expected = F.cross_entropy(
        output.logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
    )
    close(output.language_loss, expected)
    tokens = (batch["labels"][:, 1:] != -100).sum()
    # where somebody gives the tokens of all micro-batches, as in any language model
    accumulated = model(**batch, num_items_in_batch=tokens * 2)
    close(accumulated.language_loss, expected / 2)


@pytest.mark.parametrize("steps", [2, 3])
def test_accumulation_in_a_plain_trainer_weighs_no_loss_twice(tmp_path, steps):
    """The same micro-batch, several times over, has the gradient of one, whichever loss it comes from."""
    batch, gradients = make_batch(), []
    for accumulated in (1, steps):
        model = make_model()
        model.register_forward_pre_hook(lambda *_: torch.manual_seed(0) and None)  # noise and negatives
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=1,
            learning_rate=0.0,
            max_grad_norm=0.0,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=accumulated,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
        )
        found = {}

        class Remember(TrainerCallback):
            def on_pre_optimizer_step(self, args, state, control, model, into=found, **kwargs):
                into.update({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})

        data = [{"cells": i} for i in range(accumulated)]
        trainer = Trainer(
            model, arguments, data_collator=lambda rows: dict(batch), train_dataset=data, callbacks=[Remember()]
        )
        trainer.args.remove_unused_columns = False
        trainer.train()
        gradients.append(found)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        close(gradients[1][name], gradient)


LONELY = {
    "target_counts": (("target_counts",), "`target_gene_ids` is given without `target_counts`"),
    "target_gene_ids": (("target_gene_ids",), "`target_counts` is given without `target_gene_ids`"),
    "cell_values": (("cell_values",), "`cell_gene_ids` is given without `cell_values`"),
    "cell_gene_ids": (("cell_gene_ids",), "`cell_values` is given without `cell_gene_ids`"),
    "targets": (("target_counts", "target_gene_ids"), "`condition_input_ids` is given without `target_gene_ids`"),
    "cells of targets": (("cell_gene_ids", "cell_values"), "`target_gene_ids` is given without `cell_gene_ids`"),
    "cells of descriptions": (
        ("cell_gene_ids", "cell_values", "target_gene_ids", "target_counts", "cell_value_labels"),
        "`description_input_ids` is given without `cell_gene_ids`",
    ),
}


@pytest.mark.parametrize("case", LONELY)
def test_inputs_that_go_together_are_asked_for(model, case):
    dropped, message = LONELY[case]
    with pytest.raises(ValueError, match=message):
        model(**{k: v for k, v in make_batch().items() if k not in dropped})


def test_texts_longer_than_what_reads_them_are_refused(model):
    batch = make_batch()
    long = torch.full((3, 129), 7)
    for name, most in (("condition", 128), ("description", 64)):
        with pytest.raises(ValueError, match=f"`{name}_input_ids` has 129 tokens; the model reads at most {most}"):
            model(**batch | {f"{name}_input_ids": long, f"{name}_attention_mask": torch.ones_like(long)})
    with pytest.raises(ValueError, match="`input_ids` has 129 tokens; the model reads at most 64"):
        model.get_text_embeddings(long)
    for call in (model, model.get_condition_tokens):
        with pytest.raises(ValueError, match="`input_ids` has 129 tokens; the model reads at most 128"):
            call(long)


# --- flow


@pytest.fixture
def flow():
    generator = make_model().cell_generator
    generator.target_mean.copy_(torch.arange(9.0))
    generator.target_std.copy_(torch.arange(9.0) + 0.5)
    return generator


def test_flow_loss_is_the_distance_to_the_straight_line(flow):
    target, condition = torch.randn(6, 9) * 3 + 5, torch.randn(6, 2, 32)
    torch.manual_seed(3)
    loss = flow(target, condition)
    torch.manual_seed(3)
    goal = (target - flow.target_mean) / flow.target_std
    noise, time = torch.randn(6, 9), torch.rand(6)
    position = (1 - time)[:, None] * noise + time[:, None] * goal
    expected = ((flow.velocity(position, time, condition) - (goal - noise)) ** 2).mean()
    close(loss, expected)


def test_flow_loss_sends_no_gradient_to_the_latent():
    model, batch = make_model(), make_batch()
    wanted = ("cell_", "panel_", "target_", "condition_")
    output = model(**{k: v for k, v in batch.items() if k.startswith(wanted)})
    output.flow_loss.backward()
    assert all(p.grad is None for p in model.cell_model.parameters())
    assert all(p.grad is None for p in model.expression_head.parameters())
    assert all(p.grad is not None for p in model.text_projector.parameters())


def test_condition_is_dropped_in_training_only():
    generator = make_model(condition_dropout=0.999).cell_generator
    target, conditions = torch.randn(4, 9), (torch.randn(4, 2, 32), torch.randn(4, 2, 32))

    def losses() -> list[torch.Tensor]:
        found = []
        for condition in conditions:
            torch.manual_seed(0)
            found.append(generator(target, condition))
        return found

    first, second = losses()
    assert first != second
    generator.train()
    first, second = losses()
    assert first == second


@pytest.mark.parametrize(("num_steps", "tolerance"), [(5, 5e-2), (20, 2e-3), (80, 2e-4)])
def test_heun_solves_a_linear_equation(flow, monkeypatch, num_steps, tolerance):
    """dx/dt = -2 x + t has the solution x(1) = (x0 + 1/4) exp(-2) + 1/4, in units of the target."""
    monkeypatch.setattr(flow, "velocity", lambda position, time, condition: -2 * position + time[:, None])
    noise = torch.randn(4, 9)
    found = flow.sample(noise, torch.zeros(4, 2, 32), guidance_scale=1.0, num_steps=num_steps)
    exact = (noise + 0.25) * math.exp(-2) + 0.25
    close((found - flow.target_mean) / flow.target_std, exact, tolerance)


def test_heun_is_of_second_order(flow, monkeypatch):
    monkeypatch.setattr(flow, "velocity", lambda position, time, condition: -2 * position)
    flow.double()
    exact = flow.target_std * math.exp(-2) + flow.target_mean
    noise, errors = torch.ones(1, 9, dtype=torch.float64), []
    for num_steps in (10, 20, 40):
        errors.append((flow.sample(noise, torch.zeros(1, 2, 32), 1.0, num_steps) - exact).abs().max().item())
    assert 3.5 < errors[0] / errors[1] < 4.8
    assert 3.5 < errors[1] / errors[2] < 4.8


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.5, 3.0])
def test_guidance_is_a_line_through_both_velocities(flow, scale):
    position, time, condition = torch.randn(3, 9), torch.rand(3), torch.randn(3, 2, 32)
    with_text = flow.velocity(position, time, condition)
    without = flow.velocity(position, time, flow.null_condition.expand(3, -1, -1))
    assert (with_text - without).abs().max() > 1e-3
    found = flow._guided_velocity(position, time, condition, scale)
    close(found, (1 - scale) * without + scale * with_text)


def test_library_size_is_that_of_the_whole_transcriptome(model):
    profile = model.cell_model.gene_profile
    panel = torch.tensor([[3, 5, 8, PAD_GENE]])
    counts = torch.tensor([[2.0, 7.0, 0.0]])
    found = model.log_library_size(counts, model.panel_mask(panel))
    close(found.exp(), 9 / profile[[3, 5, 8]].sum()[None], 1e-4)
