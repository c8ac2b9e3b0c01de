"""One batch, learnt by heart: every loss goes down, and then the model names, matches, rebuilds and generates it."""

import numpy as np
import pytest
import torch

from .tiny import BOS, CELL, CELL_FIELDS, EOS, GENES, NUM_CELL_TOKENS, WORDS, make_model, make_processor

TYPES = ("T", "B", "monocyte")
CELLS_PER_TYPE = 4
NUM_STEPS = 150


def _ids(text: str) -> list[int]:
    return [WORDS.index(word) for word in text.split()]


def _padded(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=1)
    return ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()


def _make_counts() -> np.ndarray:
    """Cells of three types, each with twenty genes of its own that it expresses most."""
    rng = np.random.default_rng(0)
    profiles = np.full((3, len(GENES)), 0.5)
    for i, profile in enumerate(profiles):
        profile[20 * i : 20 * (i + 1)] = rng.gamma(2.0, 6.0, size=20)
    return rng.poisson(np.repeat(profiles, CELLS_PER_TYPE, axis=0))


def group_of_cells() -> torch.Tensor:
    return torch.arange(3).repeat_interleave(CELLS_PER_TYPE)


@pytest.fixture(scope="module")
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)  # fixtures of a module come before the seed that each test starts with
    group = group_of_cells()
    batch = dict(make_processor().feature_extractor(_make_counts(), gene_names=GENES, return_targets=True))
    masked = (torch.rand(batch["cell_values"].shape) < 0.15) & (batch["cell_attention_mask"] == 1)
    masked[:, 0] = False
    batch["cell_value_labels"] = torch.where(masked, batch["cell_values"], -100.0)
    batch["cell_values"] = torch.where(masked, -1.0, batch["cell_values"])
    prompt = [BOS, *[CELL] * NUM_CELL_TOKENS, *_ids("describe the cell :")]
    answers = [[*_ids(f"a human {TYPES[i]} of blood ."), EOS] for i in group]
    batch["input_ids"], batch["attention_mask"] = _padded([prompt + answer for answer in answers])
    batch["labels"] = batch["input_ids"].clone()
    batch["labels"][:, : len(prompt)] = -100
    texts = _padded([_ids(f"a human {TYPES[i]}") for i in group])
    batch["description_input_ids"], batch["description_attention_mask"] = texts
    batch["condition_input_ids"], batch["condition_attention_mask"] = texts
    batch["description_is_true"] = group[:, None] == group[None]
    return batch


@pytest.fixture(scope="module")
def trained(batch):
    """The model after training, and every loss of every step."""
    model = make_model().train()
    log_library = batch["target_counts"].sum(1).log()
    model.cell_generator.target_mean[-1] = log_library.mean()
    model.cell_generator.target_std[-1] = log_library.std()
    model.cell_model.gene_profile.zero_().scatter_add_(
        0, batch["target_gene_ids"].flatten(), batch["target_counts"].flatten() / batch["target_counts"].sum()
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    history = []
    for _ in range(NUM_STEPS):
        output = model(**batch)
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        history.append({name: value.item() for name, value in output.items() if name.endswith("_loss")})
    _train_flow(model, batch, optimizer)
    return model.eval(), history


def _train_flow(model, batch: dict[str, torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
    """The flow alone, on latents that no longer move, with many draws of noise for each cell."""
    with torch.no_grad():
        latents = model(**_cells(batch)).cell_latents
        target = model.flow_target(latents, batch["target_counts"], model.panel_mask(batch["panel_gene_ids"]))
    for _ in range(NUM_STEPS):
        condition = model.get_condition_tokens(batch["condition_input_ids"], batch["condition_attention_mask"])
        optimizer.zero_grad()
        model.cell_generator(target.repeat(16, 1), condition.repeat(16, 1, 1)).backward()
        optimizer.step()


def _cells(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in CELL_FIELDS}


def _proportions(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    counts = torch.zeros(len(batch["cell_values"]), len(GENES) + 3)
    counts.scatter_(1, batch["target_gene_ids"], batch["target_counts"])
    return (counts / counts.sum(1, keepdim=True))[:, : len(GENES)]


def test_every_loss_goes_down(trained):
    _, history = trained
    # how far each can fall: a flow cannot foresee its noise, the multinomial has the entropy of the counts
    shares = {
        "cell_reconstruction_loss": 0.9,
        "masked_expression_loss": 0.2,
        "contrastive_loss": 0.8,
        "matching_loss": 0.1,
        "language_loss": 0.05,
        "flow_loss": 0.7,
    }
    for name, share in shares.items():
        first, last = (np.mean([step[name] for step in steps]) for steps in (history[:3], history[-15:]))
        assert last < share * first, (name, first, last)


def test_it_names_the_types(trained, batch):
    model, _ = trained
    prompt = batch["input_ids"][:, : 1 + NUM_CELL_TOKENS + 4]
    generated = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        **_cells(batch),
        max_new_tokens=10,
        do_sample=False,
    )
    answers = make_processor().batch_decode(generated[:, prompt.shape[1] :], skip_special_tokens=True)
    assert answers == [f"a human {TYPES[i]} of blood ." for i in group_of_cells()]


def test_it_matches_cells_and_texts(trained, batch):
    model, _ = trained
    texts = model.get_text_embeddings(*_padded([_ids(f"a human {name}") for name in TYPES]))
    similarity = model.get_cell_embeddings(**_cells(batch)) @ texts.T
    assert similarity.argmax(1).tolist() == group_of_cells().tolist()


def test_it_rebuilds_the_expression(trained, batch):
    model, _ = trained
    with torch.no_grad():
        latents = model(**_cells(batch)).cell_latents
        rebuilt = model.expression_log_probs(latents, model.panel_mask(batch["panel_gene_ids"])).exp()
    for ours, real in zip(rebuilt[:, : len(GENES)], _proportions(batch), strict=True):
        assert np.corrcoef(ours, real)[0, 1] > 0.9


def test_it_generates_the_type_that_was_asked(trained, batch):
    model, _ = trained
    means = _proportions(batch).view(3, CELLS_PER_TYPE, -1).mean(1)
    ids, mask = _padded([_ids(f"a human {name}") for name in TYPES])
    cells = model.generate(ids, attention_mask=mask, generation_mode="cell", num_return_sequences=20)
    assert cells.gene_ids.tolist() == list(range(len(GENES)))
    generated = cells.counts / cells.counts.sum(1, keepdim=True)
    nearest = torch.cdist(generated, means).argmin(1).view(3, 20)
    assert ((nearest == torch.arange(3)[:, None]).float().mean(1) >= 0.9).all()
    real = batch["target_counts"].sum(1).log()
    assert (cells.counts.sum(1).log().mean() - real.mean()).abs() < 0.2
