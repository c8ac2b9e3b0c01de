"""`generate`: cells that depend on the text alone, and text that keeps every prompt with its own cells."""

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from scmmgpt import ScMMGPTConfig

from .tiny import (
    CELL,
    CELL_FIELDS,
    CLS_GENE,
    GENES,
    PAD_GENE,
    make_cell_config,
    make_config,
    make_counts,
    make_model,
    make_processor,
)

PROMPT = "a naive T cell of human blood"
ASK = "<cell> describe the cell :"


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def processor():
    return make_processor()


def draw(model, inputs, seed: int = 0, **kwargs):
    generator = torch.Generator().manual_seed(seed)
    return model.generate(**inputs, generation_mode="cell", generator=generator, **kwargs)


# --- cells from text


def test_cells_in_the_inputs_change_nothing(model, processor):
    """The same text with cells A, with cells B and with none gives the same counts, bit for bit."""
    answers = []
    for cells in (None, make_counts(1, seed=1), make_counts(3, seed=2)):
        names = None if cells is None else GENES
        inputs = processor(text=PROMPT, cells=cells, gene_names=names, return_targets=cells is not None)
        answers.append(draw(model, inputs, num_return_sequences=4))
    for other in answers[1:]:
        for name in ("counts", "gene_ids", "library_size", "latents"):
            assert torch.equal(other[name], answers[0][name])


def test_two_draws_differ_and_a_seed_repeats(model, processor):
    inputs = processor(text=PROMPT)
    first = draw(model, inputs, num_return_sequences=3)
    assert torch.equal(first.counts, draw(model, inputs, num_return_sequences=3).counts)
    assert not torch.equal(first.counts, draw(model, inputs, seed=1, num_return_sequences=3).counts)
    assert len({tuple(row) for row in first.counts.tolist()}) == 3
    # the global source of randomness serves when no generator is given
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(model.generate(**inputs, generation_mode="cell").counts)
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_the_text_matters_and_its_padding_does_not(model, processor):
    texts = [PROMPT, "a B cell"]
    noise = torch.randn(1, 9)
    targets = {}
    for side in ("left", "right"):
        inputs = processor(text=texts, padding_side=side)
        condition = model.get_condition_tokens(**inputs)
        targets[side] = model.cell_generator.sample(noise.expand(2, -1), condition, 1.5, 20)
    alone = model.get_condition_tokens(**processor(text=texts[1]))
    targets["alone"] = model.cell_generator.sample(noise, alone, 1.5, 20)
    torch.testing.assert_close(targets["left"], targets["right"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(targets["left"][1:], targets["alone"], atol=1e-5, rtol=1e-5)
    assert (targets["left"][0] - targets["left"][1]).abs().max() > 0.01


def test_shapes_and_the_order_of_prompts(model, processor):
    inputs = processor(text=[PROMPT, "a B cell"])
    cells = draw(model, inputs, num_return_sequences=3)
    assert cells.counts.shape == (6, 60)
    assert cells.library_size.shape == (6,)
    assert cells.latents.shape == (6, 8)
    assert torch.equal(cells.counts, cells.counts.round())
    assert (cells.counts >= 0).all()
    # three cells of a prompt stand in a row: the same noise for prompt 0 twice gives the same first three cells
    twice = draw(model, processor(text=[PROMPT, PROMPT]), num_return_sequences=3)
    assert torch.equal(twice.latents[:3], draw(model, inputs, num_return_sequences=3).latents[:3])


def expected_counts(model, cells) -> torch.Tensor:
    """`(S, V)` means of the Poisson draws."""
    mask = model.panel_mask(cells.gene_ids[None])
    return cells.library_size[:, None] * model.expression_log_probs(cells.latents, mask).exp()


def test_counts_are_poisson_around_library_times_proportion(model, processor):
    cells = draw(model, processor(text=PROMPT), num_return_sequences=400)
    means = expected_counts(model, cells)[:, cells.gene_ids]
    torch.testing.assert_close(means.sum(1), cells.library_size)
    deviations = (cells.counts - means) / means.clamp(min=1e-3).sqrt()
    often = means.mean(0) > 0.5
    assert deviations[:, often].mean().abs() < 0.05
    assert (deviations[:, often].var() - 1).abs() < 0.1


def test_library_size_is_the_panels_share_of_the_transcriptome(model, processor):
    inputs = processor(text=PROMPT)
    whole = draw(model, inputs)
    for panel in ([4, 2, 9], list(range(30))):
        part = draw(model, inputs, gene_ids=torch.tensor(panel))
        assert part.gene_ids.tolist() == sorted(panel)
        assert torch.equal(part.latents, whole.latents)
        share = model.cell_model.gene_profile[panel].sum() / model.cell_model.gene_profile.sum()
        torch.testing.assert_close(part.library_size, whole.library_size * share)
        torch.testing.assert_close(expected_counts(model, part).sum(1), part.library_size)
    genes = processor.feature_extractor.gene_ids(["GENE4", "GENE2"])  # as numpy, with repeats: a panel is a set
    assert draw(model, inputs, gene_ids=np.concatenate([genes, genes])).gene_ids.tolist() == [2, 4]


def test_a_gene_does_not_depend_on_which_others_are_asked(model, processor):
    cells = draw(model, processor(text=PROMPT), num_return_sequences=5)
    everything = processor.post_process_cells(cells)
    assert everything["var_names"] == GENES
    for names in (["GENE7"], ["GENE40", "GENE7"], GENES[::-1]):
        subset = processor.post_process_cells(cells, genes=names)
        assert subset["var_names"] == list(names)
        column = list(names).index("GENE7")
        np.testing.assert_array_equal(subset["counts"][:, column], everything["counts"][:, 7])
        np.testing.assert_array_equal(subset["library_size"], everything["library_size"])


BAD_CELL_REQUESTS = {
    "no text": ({}, "`input_ids` is missing"),
    "unknown mode": ({"generation_mode": "image"}, "`generation_mode`='image': expected 'text' or 'cell'"),
    "an argument of text generation": ({"max_new_tokens": 5}, r"does not know \['max_new_tokens'\]"),
    "no cells": ({"num_return_sequences": 0}, "`num_return_sequences`=0: expected a finite number of at least 1"),
    "no steps": ({"num_flow_steps": 0}, "`num_flow_steps`=0"),
    "negative guidance": ({"guidance_scale": -1.0}, "`guidance_scale`=-1.0"),
    "infinite guidance": ({"guidance_scale": float("inf")}, "`guidance_scale`=inf"),
    "guidance that is no number": ({"guidance_scale": float("nan")}, "`guidance_scale`=nan"),
    "an empty panel": ({"gene_ids": []}, r"`gene_ids` of shape \(0,\)"),
    "an unknown gene": ({"gene_ids": [3, -1]}, "without the unknown"),
    "a gene beyond the vocabulary": ({"gene_ids": [63]}, r"in \[0, 63\)"),
    "a panel for each cell": ({"gene_ids": [[1, 2]]}, r"`gene_ids` of shape \(1, 2\)"),
    "special tokens only": ({"gene_ids": [PAD_GENE, CLS_GENE]}, "<pad> and <cls> being none"),
    "a placeholder": ({"input_ids": torch.tensor([[2, CELL, 7]])}, "holds a cell placeholder"),
}


@pytest.mark.parametrize("case", BAD_CELL_REQUESTS)
def test_bad_requests(model, case):
    changes, message = BAD_CELL_REQUESTS[case]
    request = {"generation_mode": "cell", "input_ids": torch.tensor([[2, 7]])} if case != "no text" else changes
    with pytest.raises(ValueError, match=message):
        model.generate(**{"generation_mode": "cell"} | request | changes)


# --- text from cells


@pytest.fixture(scope="module")
def prompts(processor):
    """Prompts with one cell, none and two cells, in one batch; and each of them alone."""
    texts = ["<cell> describe the cell :", "a human B cell is", "<cell> with <cell> is a"]
    counts = make_counts(3)
    together = processor(text=texts, cells=counts, gene_names=GENES)
    alone = [
        processor(text=texts[0], cells=counts[:1], gene_names=GENES),
        processor(text=texts[1]),
        processor(text=texts[2], cells=counts[1:], gene_names=GENES),
    ]
    return together, alone


def answers(model, inputs, **kwargs) -> torch.Tensor:
    """New tokens only, `(rows, 6)`."""
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False} | kwargs
    return model.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]


@pytest.mark.parametrize("mode", [{}, {"use_cache": False}, {"num_beams": 3}, {"num_beams": 3, "use_cache": False}])
def test_a_batch_of_prompts_answers_as_each_alone(model, prompts, mode):
    together, alone = prompts
    expected = torch.cat([answers(model, inputs, **mode) for inputs in alone])
    assert torch.equal(answers(model, together, **mode), expected)
    assert len({tuple(row) for row in expected.tolist()}) > 1


@pytest.mark.parametrize("mode", [{"num_beams": 3}, {"num_beams": 3, "use_cache": False}, {"num_beams": 4}])
def test_several_answers_by_beam_search(model, prompts, mode):
    together, alone = prompts
    mode = mode | {"num_return_sequences": 3}
    expected = torch.cat([answers(model, inputs, **mode) for inputs in alone])
    assert torch.equal(answers(model, together, **mode), expected)


@pytest.mark.parametrize("use_cache", [True, False])
def test_several_answers_by_sampling(model, prompts, use_cache):
    """Sampling among the single likeliest token is greedy, so each row is the answer of its prompt."""
    together, alone = prompts
    greedy = torch.cat([answers(model, inputs) for inputs in alone])
    kwargs = {"do_sample": True, "top_k": 1, "num_return_sequences": 2, "use_cache": use_cache}
    assert torch.equal(answers(model, together, **kwargs), greedy.repeat_interleave(2, dim=0))


def test_sampled_answers_differ(model, prompts):
    together, _ = prompts
    rows = answers(model, together, do_sample=True, num_return_sequences=4, temperature=2.0)
    assert rows.shape == (12, 6)
    assert all(len({tuple(row) for row in group.tolist()}) > 1 for group in rows.view(3, 4, 6))


def test_several_answers_to_embeddings(model, prompts):
    together, _ = prompts
    embeds = model.get_input_embeddings()(together["input_ids"])
    inputs = {name: value for name, value in together.items() if name != "input_ids"}
    settings = {
        "max_new_tokens": 6,
        "min_new_tokens": 6,
        "do_sample": False,
        "num_beams": 2,
        "num_return_sequences": 2,
    }
    found = model.generate(inputs_embeds=embeds, **inputs, **settings)
    assert torch.equal(found, answers(model, together, num_beams=2, num_return_sequences=2))


def test_more_left_padding_changes_no_answer(model, processor):
    inputs = processor(text=ASK, cells=make_counts(1), gene_names=GENES)
    longer = processor(text=ASK, cells=make_counts(1), gene_names=GENES, padding="max_length", max_length=20)
    assert longer["input_ids"].shape[1] == 20 > inputs["input_ids"].shape[1]
    assert torch.equal(answers(model, longer), answers(model, inputs))


def test_the_cell_matters(model, processor):
    rows = [answers(model, processor(text=ASK, cells=make_counts(1, i), gene_names=GENES)) for i in range(6)]
    assert len({tuple(row[0].tolist()) for row in rows}) > 1


def test_a_model_never_writes_a_placeholder(model, processor):
    inputs = processor(text=ASK, cells=make_counts(1), gene_names=GENES)
    rows = answers(
        model, inputs, do_sample=True, temperature=50.0, num_return_sequences=50, use_cache=False, max_new_tokens=8
    )
    assert not (rows == CELL).any()


def test_text_only_needs_no_cell_and_targets_do_no_harm(model, processor):
    counts = make_counts(1)
    with_targets = processor(text=ASK, cells=counts, gene_names=GENES, return_targets=True)
    plain = {name: with_targets[name] for name in ("input_ids", "attention_mask", *CELL_FIELDS)}
    assert torch.equal(answers(model, with_targets), answers(model, plain))
    assert answers(model, processor(text="a human")).shape == (1, 6)


@pytest.mark.parametrize("mode", [{}, {"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}])
def test_cells_without_placeholders_are_refused(model, processor, mode):
    inputs = processor(text="describe the cell", cells=make_counts(1), gene_names=GENES)
    with pytest.raises(ValueError, match="0 cell placeholder tokens, but 1 cells need 1 x 3"):
        model.generate(**inputs, max_new_tokens=2, **mode)


def test_a_generation_config_comes_second_as_in_transformers(model, processor):
    inputs = processor(text="a human")
    config = GenerationConfig(max_new_tokens=3, min_new_tokens=3, do_sample=False)
    found = model.generate(inputs["input_ids"], config, attention_mask=inputs["attention_mask"])
    assert found.shape[1] == inputs["input_ids"].shape[1] + 3
    with pytest.raises(ValueError, match="`generation_config` is for text"):
        model.generate(inputs["input_ids"], config, generation_mode="cell")


# --- configurations

BAD_CONFIGS = {
    "heads of the cell encoder": (lambda: make_cell_config(num_attention_heads=5), "not divisible by num_attention"),
    "<pad> outside the vocabulary": (lambda: make_cell_config(pad_token_id=63), "`cell_config.pad_token_id`=63"),
    "<cls> outside the vocabulary": (lambda: make_cell_config(cls_token_id=-1), "`cell_config.cls_token_id`=-1"),
    "<eoc> outside the vocabulary": (lambda: make_cell_config(eoc_token_id=63), "`cell_config.eoc_token_id`=63"),
    "unknown text model": (
        lambda: ScMMGPTConfig(text_config={"model_type": "no_such_model"}),
        "'no_such_model' is not an architecture of the installed transformers",
    ),
    "no cell tokens": (lambda: make_config(num_cell_tokens=0), "`num_cell_tokens`=0: expected at least 1"),
    "no condition tokens": (lambda: make_config(num_condition_tokens=0), "`num_condition_tokens`=0"),
    "everything dropped": (lambda: make_config(condition_dropout=1.0), "`condition_dropout`=1.0"),
    "placeholder outside the text vocabulary": (lambda: make_config(cell_token_id=99), "Add the `<cell>` token"),
    "heads of the Q-Former": (
        lambda: make_config(qformer_config={"hidden_size": 30, "num_attention_heads": 4}),
        "`qformer_config`: hidden_size=30",
    ),
}


@pytest.mark.parametrize("case", BAD_CONFIGS)
def test_bad_configurations(case):
    make, message = BAD_CONFIGS[case]
    with pytest.raises(ValueError, match=message):
        make()
