"""Cells to batches: worked by hand where numbers count, and every row fixed by its seed alone."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from scmmgpt import ScMMGPTFeatureExtractor, ScMMGPTProcessor
from scmmgpt.data import CaptionWriter, CellFacts, Ontology, named_genes, train_tokenizer
from scmmgpt.data.collator import CELL_LOSSES, LOSSES, PAIR_LOSSES, ScMMGPTDataCollator
from scmmgpt.data.dataset import CellDataset
from scmmgpt.data.facts import read_facts
from scmmgpt.data.profile import characteristic_genes, mean_profile

from .tiny import GENES, make_counts

CELL_NAMES = {"cell_gene_ids", "cell_values", "cell_attention_mask", "panel_gene_ids", "cell_panel_index"}
TARGET_NAMES = {"target_gene_ids", "target_counts"}
B_CELL = CellFacts("B cell", "CL:0000236", tissue="blood", disease="normal", donor="d1")
NK_CELL = CellFacts("NK", "CL:0000623", tissue="lung", sex="female")
TYPES = (B_CELL, NK_CELL)  # in turn


@pytest.fixture(scope="module")
def writer() -> CaptionWriter:
    return CaptionWriter(Ontology())


@pytest.fixture(scope="module")
def processor(writer) -> ScMMGPTProcessor:
    rng = np.random.default_rng(0)
    texts = [writer.describe(facts, rng, GENES) for facts in (B_CELL, NK_CELL) for _ in range(50)]
    return ScMMGPTProcessor(
        ScMMGPTFeatureExtractor.from_genes(GENES, max_genes=32), train_tokenizer(texts, 500), num_cell_tokens=3
    )


@pytest.fixture(scope="module")
def cells(processor):
    """Eight cells over all sixty genes."""
    return processor.feature_extractor.align(make_counts(8), gene_names=GENES)


@pytest.fixture(scope="module")
def dataset(cells) -> CellDataset:
    return CellDataset([cells], [[B_CELL, NK_CELL] * 4], seed=5)


@pytest.fixture(scope="module")
def make_collator(processor, writer, cells):
    profile = mean_profile([cells], len(processor.feature_extractor.vocab))
    return lambda losses=LOSSES, **options: ScMMGPTDataCollator(processor, writer, profile, losses, **options)


def align(counts: list, genes: list[str]):
    return ScMMGPTFeatureExtractor.from_genes(GENES[:4], min_match_share=0).align(np.array(counts), genes)


def take(dataset: CellDataset, indices):
    return dataset.__getitems__(list(indices))


# The typical transcriptome


def test_mean_profile_by_hand():
    # gene 0: shares 1/2 and 1/4 in the first panel, 1 in the second; gene 1: 1/2 and 3/4; gene 2: never seen, measured
    # in the second panel only; gene 3: in no panel
    sources = [align([[1, 1], [1, 3]], GENES[:2]), align([[5, 0]], [GENES[0], GENES[2]])]
    profile = mean_profile(sources, 7)
    shares = np.array([(1 / 2 + 1 / 4 + 1) / 3, (1 / 2 + 3 / 4) / 2, 0.0])
    shares[2] = 1e-3 * np.median(shares[:2])
    np.testing.assert_allclose(profile[:3], shares / shares.sum())
    np.testing.assert_array_equal(profile[3:], 0)
    assert profile.sum() == pytest.approx(1)


def test_mean_profile_does_not_depend_on_depth():
    one, deep = align([[1, 2, 3, 4]], GENES[:4]), align([[10, 20, 30, 40]], GENES[:4])
    np.testing.assert_allclose(mean_profile([one], 7), mean_profile([deep], 7))


def test_characteristic_genes_by_hand():
    gene_ids, counts = np.array([0, 1, 2, 3, 5]), np.array([2, 8, 1, 5, 4.0])
    profile = np.array([0.025, 0.4, 0.001, 0.5, 0.0, 0.05])
    # x log(p / profile): 2 log 4 = 2.8, 8 log 1 = 0, one count only, below typical, 4 log 4 = 5.5
    assert characteristic_genes(gene_ids, counts, profile, 5).tolist() == [5, 0]
    assert characteristic_genes(gene_ids, counts, profile, 1).tolist() == [5]
    ties = characteristic_genes(np.array([4, 7, 9]), np.array([3.0, 3.0, 3.0]), np.full(10, 0.1), 2)
    assert ties.tolist() == [4, 7]
    unseen = characteristic_genes(np.array([0, 4]), np.array([1.0, 2.0]), profile, 5)
    assert unseen.tolist() == [4]  # a share of 0 in training is no reason to divide by it


# Facts


def test_read_facts_reads_each_distinct_row_once(writer):
    obs = pd.DataFrame(
        {"cell_type": ["B cell", "NK", "B cell"], "tissue": ["blood", None, "blood"], "barcode": ["x", "y", "z"]}
    ).astype("category")
    one, two, three = read_facts(obs, writer.ontology)
    assert one == CellFacts("B cell", "CL:0000236", tissue="blood")
    assert two == CellFacts("NK", "CL:0000623")
    assert one is three
    (fine,) = read_facts(pd.DataFrame({"cell_type": ["B cell"], "fine": ["NK"]}), writer.ontology, "fine")
    assert fine == two
    with pytest.raises(ValueError, match="`label_key` is 'absent'"):
        read_facts(obs, writer.ontology, "absent")


# Examples


def test_a_dataset_holds_each_cell_with_its_facts_and_panel(dataset, cells):
    assert len(dataset) == 8
    batch = take(dataset, [3, 0])
    for row, i in enumerate([3, 0]):
        entries = slice(*batch.cells.indptr[row : row + 2])
        np.testing.assert_array_equal(batch.cells.gene_ids[entries], cells.row(i)[0])
        np.testing.assert_array_equal(batch.cells.counts[entries], cells.row(i)[1])
    assert [batch.facts[i] for i in batch.cells.facts_index] == [NK_CELL, B_CELL]
    np.testing.assert_array_equal(batch.panels[batch.cells.panel_index[0]], cells.panel)
    with pytest.raises(ValueError, match="`facts` holds 1 entries for 8 cells"):
        CellDataset([cells], [[B_CELL]])


def test_sources_keep_their_panels_and_share_their_facts(processor):
    extractor = processor.feature_extractor
    few = extractor.align(make_counts(2)[:, :20], GENES[:20])
    dataset = CellDataset(
        [extractor.align(make_counts(3), GENES), few], [[B_CELL, NK_CELL, B_CELL], [NK_CELL, B_CELL]]
    )
    batch = take(dataset, range(5))
    assert [len(batch.panels[i]) for i in batch.cells.panel_index] == [60, 60, 60, 20, 20]
    assert [batch.facts[i] for i in batch.cells.facts_index] == [B_CELL, NK_CELL, B_CELL, NK_CELL, B_CELL]
    assert len(batch.facts) == 2


# Fields


@pytest.mark.parametrize(
    ("losses", "extra"),
    [
        (("cell_reconstruction",), set()),
        (("masked_expression",), {"cell_value_labels"}),
        (PAIR_LOSSES, {"description_input_ids", "description_attention_mask", "description_is_true"}),
        (("matching",), {"description_input_ids", "description_attention_mask", "description_is_true"}),
        (("language",), {"input_ids", "attention_mask", "labels"}),
        (("flow",), {"condition_input_ids", "condition_attention_mask"}),
    ],
)
def test_a_batch_holds_what_the_losses_need_and_nothing_else(make_collator, dataset, losses, extra):
    batch = make_collator(losses)(take(dataset, range(3)))
    assert set(batch) == CELL_NAMES | TARGET_NAMES | extra
    assert all(isinstance(value, torch.Tensor) for value in batch.values())


def test_shapes_types_and_padding_of_the_cell_fields(make_collator, dataset, cells, processor):
    batch = make_collator(CELL_LOSSES, panel_dropout=0.0)(take(dataset, range(8)))
    extractor = processor.feature_extractor
    assert batch["cell_gene_ids"].dtype == batch["panel_gene_ids"].dtype == torch.int64
    assert batch["cell_values"].dtype == batch["cell_value_labels"].dtype == batch["target_counts"].dtype
    assert batch["cell_values"].dtype == torch.float32
    assert batch["panel_gene_ids"].tolist() == [list(range(60))]
    assert batch["cell_panel_index"].tolist() == [0] * 8
    for i in range(8):
        gene_ids, counts = cells.row(i)
        real = batch["target_counts"][i] > 0
        assert batch["target_gene_ids"][i][real].tolist() == gene_ids.tolist()  # all of them, not only the tokens
        assert batch["target_counts"][i][real].tolist() == counts.tolist()
        assert (batch["target_gene_ids"][i][~real] == extractor.pad_token_id).all()
        length = min(len(gene_ids) + 1, extractor.max_genes)
        assert batch["cell_attention_mask"][i].sum() == length
        assert (batch["cell_gene_ids"][i, length:] == extractor.pad_token_id).all()
        assert (batch["cell_gene_ids"][i, 0] == extractor.cls_token_id).all()


def test_cells_of_several_panels_share_a_batch(make_collator, processor):
    extractor = processor.feature_extractor
    sources = [
        extractor.align(make_counts(2)[:, columns], [GENES[i] for i in columns])
        for columns in (range(60), range(10, 30))
    ]
    dataset = CellDataset(sources, [[B_CELL] * 2] * 2)
    batch = make_collator(("flow",), panel_dropout=0.0)(take(dataset, (2, 0, 3, 1)))
    assert batch["cell_panel_index"].tolist() == [1, 0, 1, 0]
    assert batch["panel_gene_ids"][0].tolist() == list(range(60))
    assert batch["panel_gene_ids"][1].tolist() == [*range(10, 30), *[extractor.pad_token_id] * 40]
    alone = make_collator(("flow",), panel_dropout=0.0)(dataset[3])
    assert alone["panel_gene_ids"].tolist() == [list(range(10, 30))]  # a panel that no cell has is not there


def test_unknown_losses_are_refused(make_collator):
    with pytest.raises(ValueError, match=r"names \['reconstruction'\]; the model has \['cell_reconstruction'"):
        make_collator(("reconstruction", "flow"))


# Packed


def test_packed_and_padded_hold_the_same_tokens(make_collator, dataset):
    """Torn apart at `cell_cu_seqlens`, the packed tokens are the rows of the padded batch."""
    cells = take(dataset, [6, 1, 3])
    padded = make_collator(CELL_LOSSES)(cells)
    packed = make_collator(CELL_LOSSES, layout="packed")(cells)
    assert "cell_attention_mask" not in packed
    limits = packed["cell_cu_seqlens"]
    assert limits.dtype == torch.int32
    lengths = padded["cell_attention_mask"].sum(1)
    assert limits.diff().tolist() == lengths.tolist()
    for name in ("cell_gene_ids", "cell_values", "cell_value_labels"):
        for row, tokens in enumerate(packed[name].split(lengths.tolist())):
            torch.testing.assert_close(tokens, padded[name][row, : lengths[row]], rtol=0, atol=0)
    for name in ("target_gene_ids", "target_counts", "panel_gene_ids", "cell_panel_index"):
        torch.testing.assert_close(packed[name], padded[name], rtol=0, atol=0)
    with pytest.raises(ValueError, match="`layout`='ragged': expected 'padded' or 'packed'"):
        make_collator(CELL_LOSSES, layout="ragged")


# Masked expression


def test_masking_hides_values_and_keeps_them_as_labels(make_collator, dataset, cells, processor):
    examples = take(dataset, range(8))
    batch = make_collator(("masked_expression",), panel_dropout=0.0, max_mask_share=0.9)(examples)
    plain = make_collator(("cell_reconstruction",), panel_dropout=0.0)(examples)
    masked = batch["cell_value_labels"] != -100.0
    assert 0.1 < masked.float().mean() < 0.9
    assert not masked[:, 0].any()
    assert not masked[batch["cell_attention_mask"] == 0].any()
    torch.testing.assert_close(batch["cell_value_labels"][masked], plain["cell_values"][masked], rtol=0, atol=0)
    assert (batch["cell_values"][masked] == processor.feature_extractor.mask_value).all()
    torch.testing.assert_close(batch["cell_values"][~masked], plain["cell_values"][~masked], rtol=0, atol=0)
    torch.testing.assert_close(batch["cell_gene_ids"], plain["cell_gene_ids"])
    # what is hidden from the tokens is still to be reconstructed
    torch.testing.assert_close(batch["target_counts"], plain["target_counts"])


def test_the_masked_share_differs_from_cell_to_cell_and_stays_below_its_bound(make_collator, cells):
    dataset = CellDataset([cells.select(np.zeros(300, int))], [[B_CELL] * 300])
    collator = make_collator(("masked_expression",), panel_dropout=0.0, max_mask_share=0.5)
    batch = collator(take(dataset, range(300)))
    share = (batch["cell_value_labels"] != -100)[:, 1:].float().mean(1)
    assert share.mean() == pytest.approx(0.25, abs=0.03)
    assert share.min() < 0.05
    assert share.max() > 0.4
    none = make_collator(("masked_expression",), panel_dropout=0.0, max_mask_share=0.0)
    assert (none(dataset[0])["cell_value_labels"] == -100).all()


# Panels with fewer genes


def test_dropped_genes_leave_tokens_targets_and_panel(make_collator, dataset, cells):
    batch = make_collator(("cell_reconstruction",), panel_dropout=1.0)(take(dataset, range(8)))
    sizes = set()
    for i in range(8):
        panel = batch["panel_gene_ids"][batch["cell_panel_index"][i]]
        panel = set(panel[panel != 60].tolist())
        sizes.add(len(panel))
        targets = batch["target_gene_ids"][i][batch["target_counts"][i] > 0].tolist()
        tokens = batch["cell_gene_ids"][i][batch["cell_attention_mask"][i] == 1].tolist()
        assert targets == [gene for gene in cells.row(i)[0].tolist() if gene in panel]
        assert set(tokens[1:]) <= set(targets)
        counts = dict(zip(*cells.row(i), strict=True))
        assert batch["target_counts"][i][: len(targets)].tolist() == [counts[gene] for gene in targets]
    assert len(sizes) > 3
    assert min(sizes) >= 0.3 * 60 - 4 * (0.3 * 0.7 * 60) ** 0.5  # each gene is drawn by itself


def test_values_of_a_smaller_panel_are_those_of_an_assay_that_measured_no_more(make_collator, dataset, processor):
    batch = make_collator(("cell_reconstruction",), panel_dropout=1.0)(dataset[0])
    genes, counts = batch["target_gene_ids"][0].numpy(), batch["target_counts"][0].numpy()
    assert len(genes) < len(dataset[0].cells.gene_ids)
    limits = np.array([0, len(genes)])
    _, gene_ids, values = processor.feature_extractor.encode(limits, genes, counts)
    assert batch["cell_gene_ids"][0].tolist() == gene_ids.tolist()
    np.testing.assert_array_equal(batch["cell_values"][0], values)


def test_a_cell_that_would_be_left_empty_stays_whole(make_collator):
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES)
    counts = np.zeros((1, 60))
    counts[0, 17] = 3
    dataset = CellDataset([extractor.align(counts, GENES)], [[B_CELL]])
    collator = make_collator(("cell_reconstruction",), panel_dropout=1.0, min_panel_share=0.02)
    panels = set()
    for epoch in range(60):
        dataset.set_epoch(epoch)
        batch = collator(dataset[0])
        assert batch["target_gene_ids"].tolist() == [[17]]
        panels.add(batch["panel_gene_ids"].shape[1])
    assert 60 in panels  # where gene 17 was not drawn
    assert len(panels) > 10


def test_cells_share_some_random_panels_which_change_with_the_epoch(make_collator, cells):
    dataset = CellDataset([cells.select(np.zeros(400, int))], [[B_CELL] * 400])
    collator, epochs = make_collator(("cell_reconstruction",), panel_dropout=1.0), []
    for epoch in (0, 1, 0):
        dataset.set_epoch(epoch)
        batch = collator(take(dataset, range(400)))
        epochs.append({tuple(panel[panel != 60].tolist()) for panel in batch["panel_gene_ids"]})
        assert batch["cell_panel_index"].bincount().min() > 5  # about 25 cells of each
    assert all(13 <= len(panels) <= 16 for panels in epochs)  # two that keep nearly all genes may be the same
    assert epochs[0] == epochs[2]
    assert len(epochs[0] & epochs[1]) <= 1
    shares = np.array([len(panel) / 60 for panel in epochs[0] | epochs[1]])
    assert 0.2 < shares.min() < 0.5 < 0.8 < shares.max()  # from 0.3 to 1, give or take


def test_dropout_is_as_frequent_as_asked(make_collator, cells):
    dataset = CellDataset([cells.select(np.zeros(400, int))], [[B_CELL] * 400])
    batch = make_collator(("cell_reconstruction",), panel_dropout=0.25)(take(dataset, range(400)))
    whole = (batch["panel_gene_ids"] != 60).sum(1) == 60
    assert whole[batch["cell_panel_index"]].float().mean() == pytest.approx(0.75, abs=0.06)


# Mixtures


def mix(collator, dataset, i: int) -> dict[int, float]:
    """Counts of cell `i` as it stands in a batch, by gene."""
    batch = collator(dataset[i])
    pairs = zip(batch["target_gene_ids"][0].tolist(), batch["target_counts"][0].tolist(), strict=True)
    return {gene: count for gene, count in pairs if count}


def counts_of(cells, i: int) -> np.ndarray:
    dense = np.zeros(62)
    dense[cells.row(i)[0]] = cells.row(i)[1]
    return dense


def test_a_twin_is_a_cell_of_which_the_same_is_known(dataset, cells):
    twins = set()
    for epoch in range(30):
        dataset.set_epoch(epoch)
        twin = dataset[2].twins
        pairs = [((twin.gene_ids, twin.counts), cells.row(i)) for i in range(8)]
        match = [i for i, pair in enumerate(pairs) if all(map(np.array_equal, *pair))]
        assert match[0] % 2 == 0
        twins.add(match[0])
    dataset.set_epoch(0)
    assert twins == {0, 2, 4, 6}  # any of them, itself too
    alone = CellDataset([cells], [[B_CELL, *[NK_CELL] * 7]])
    np.testing.assert_array_equal(alone[0].twins.counts, cells.row(0)[1])


def test_a_mixture_takes_no_more_than_both_cells_have(make_collator, cells):
    dataset = CellDataset([cells.select([0, 1])], [[B_CELL] * 2])
    collator = make_collator(("cell_reconstruction",), mixing=1.0, panel_dropout=0.0)
    both = [counts_of(cells, 0), counts_of(cells, 1)]
    seen = set()
    for epoch in range(60):
        dataset.set_epoch(epoch)
        twin = int(np.array_equal(dataset[0].twins.gene_ids, cells.row(1)[0]))
        mixture = mix(collator, dataset, 0)
        for gene, count in mixture.items():
            assert count == round(count)
            assert 0 < count <= both[0][gene] + both[twin][gene]
        seen.add(frozenset(mixture.items()))
    assert len(seen) > 50  # as many as one likes


def test_a_mixture_is_as_deep_as_its_parts(make_collator, cells):
    """The share is uniform, so the mean depth is that of the mean of both cells."""
    dataset = CellDataset([cells.select([0, 1])], [[B_CELL] * 2])
    collator = make_collator(("cell_reconstruction",), mixing=1.0, panel_dropout=0.0)
    depths, expected = [], []
    for epoch in range(400):
        dataset.set_epoch(epoch)
        depths.append(sum(mix(collator, dataset, 0).values()))
        expected.append((dataset[0].cells.counts.sum() + dataset[0].twins.counts.sum()) / 2)
    assert np.mean(depths) == pytest.approx(np.mean(expected), rel=0.05)


def test_a_mixture_stays_inside_the_panel(make_collator, processor):
    columns = range(10, 30)
    cells = processor.feature_extractor.align(make_counts(6)[:, columns] + 1, [GENES[i] for i in columns])
    dataset = CellDataset([cells], [[B_CELL] * 6])
    for panel_dropout in (0.0, 1.0):
        collator = make_collator(("cell_reconstruction",), mixing=1.0, panel_dropout=panel_dropout)
        batch = collator(take(dataset, range(6)))
        for row in range(6):
            panel = set(batch["panel_gene_ids"][batch["cell_panel_index"][row]].tolist()) - {60}
            assert panel <= set(columns)
            assert set(batch["target_gene_ids"][row][batch["target_counts"][row] > 0].tolist()) <= panel


def test_a_twin_of_another_panel_is_not_mixed_in(make_collator, processor):
    """Its genes may be none that the cell's panel has, and no prediction there could be right."""
    extractor = processor.feature_extractor
    columns = (range(30), range(20, 60))
    sources = [extractor.align(make_counts(1)[:, c] + 1, [GENES[i] for i in c]) for c in columns]
    dataset = CellDataset(sources, [[B_CELL], [B_CELL]])
    collator, others = make_collator(("cell_reconstruction",), mixing=1.0, panel_dropout=0.0), 0
    for epoch in range(20):
        dataset.set_epoch(epoch)
        others += dataset[0].twins.panel_index[0]
        assert set(mix(collator, dataset, 0)) <= set(columns[0])
    assert others > 3


def test_a_mixture_depends_on_seed_epoch_and_index_alone(make_collator, cells):
    collator = make_collator(("cell_reconstruction",), mixing=1.0, panel_dropout=0.0)

    def draw(seed: int, epoch: int) -> list[dict[int, float]]:
        dataset = CellDataset([cells], [[B_CELL] * 8], seed)
        dataset.set_epoch(epoch)
        return [mix(collator, dataset, i) for i in (5, 2, 7)]

    first = draw(5, 0)
    assert draw(5, 0) == first
    assert draw(5, 0)[::-1] == first[::-1]
    assert all(a != b for a, b in zip(draw(5, 1), first, strict=True))
    assert all(a != b for a, b in zip(draw(6, 0), first, strict=True))


@pytest.mark.parametrize("mixing", [0.0, 0.3])
def test_mixtures_are_as_frequent_as_asked(make_collator, cells, mixing):
    dataset = CellDataset([cells.select(np.repeat([0, 1], 150))], [[B_CELL] * 300])
    collator = make_collator(("cell_reconstruction",), mixing=mixing, panel_dropout=0.0)
    whole = [dict(zip(*map(np.ndarray.tolist, cells.row(i // 150)), strict=True)) for i in range(300)]
    mixed = sum(mix(collator, dataset, i) != whole[i] for i in range(300))
    assert mixed == 0 if mixing == 0 else 60 < mixed < 120


@pytest.mark.parametrize("name", ["mixing", "panel_dropout", "min_panel_share", "max_mask_share"])
@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_shares_outside_their_bounds_are_refused(make_collator, name, value):
    with pytest.raises(ValueError, match=rf"`{name}`={value}: expected a share in \[0, 1\]"):
        make_collator(**{name: value})


# One cell, one row


def unpadded(batch: dict[str, torch.Tensor], row: int) -> dict[str, list]:
    """A row of a batch, as it would stand alone."""
    masks = {
        "cell_gene_ids": "cell_attention_mask",
        "cell_values": "cell_attention_mask",
        "cell_value_labels": "cell_attention_mask",
        "input_ids": "attention_mask",
        "labels": "attention_mask",
        "description_input_ids": "description_attention_mask",
        "condition_input_ids": "condition_attention_mask",
        "target_gene_ids": "target_counts",
        "target_counts": "target_counts",
    }
    fields = {name: batch[name][row][batch[mask][row] > 0].tolist() for name, mask in masks.items()}
    panel = batch["panel_gene_ids"][batch["cell_panel_index"][row]]
    return fields | {"panel": panel[panel != 60].tolist()}


def test_a_row_depends_on_its_cell_alone(make_collator, dataset):
    collator = make_collator()
    alone = [unpadded(collator(dataset[i]), 0) for i in range(8)]
    for order in ([0, 1, 2, 3, 4, 5, 6, 7], [6, 1, 3], [7, 0]):
        batch = collator(take(dataset, order))
        for row, i in enumerate(order):
            assert unpadded(batch, row) == alone[i], (order, i)


def test_an_epoch_and_a_seed_draw_afresh_and_repeat(make_collator, dataset, cells):
    collator = make_collator()

    def draw(seed, epoch):
        again = CellDataset([cells], [[B_CELL, NK_CELL] * 4], seed)
        again.set_epoch(epoch)
        return [unpadded(collator(again[i]), 0) for i in range(8)]

    first = draw(5, 0)
    assert draw(5, 0) == first
    for other in (draw(5, 1), draw(6, 0)):
        for name in ("cell_value_labels", "description_input_ids", "condition_input_ids", "input_ids"):
            assert [row[name] for row in other] != [row[name] for row in first], name


# Text


def test_labels_are_the_answer_and_the_end_of_text(make_collator, dataset, processor, writer):
    tokenizer = processor.tokenizer
    batch = make_collator(("language",), panel_dropout=0.0)(take(dataset, range(8)))
    answers = []
    for row in range(8):
        ids, labels = batch["input_ids"][row], batch["labels"][row]
        real = batch["attention_mask"][row] == 1
        assert real.tolist() == sorted(real.tolist(), reverse=True)  # padded on the right
        assert (labels[~real] == -100).all()
        learnt = labels != -100
        start, end = learnt.nonzero()[0].item(), real.sum().item()
        assert learnt.nonzero().flatten().tolist() == list(range(start, end))
        assert labels[learnt].tolist() == ids[learnt].tolist()
        assert ids[end - 1] == tokenizer.eos_token_id
        assert ids[0] == tokenizer.bos_token_id
        assert (ids[:start] == processor.cell_token_id).sum() == processor.num_cell_tokens
        assert not (ids[start:] == processor.cell_token_id).any()
        answer = tokenizer.decode(labels[learnt], skip_special_tokens=True)
        assert answer.startswith("\n")
        assert writer.mentioned_type(answer, ["B cell", "NK"]) == TYPES[row % 2].cell_type
        answers.append(answer)
    assert len(set(answers)) > 2


def test_the_prompt_is_tokenised_as_the_processor_does(make_collator, dataset, processor):
    """What is learnt is what is asked at inference."""
    batch = make_collator(("language",), panel_dropout=0.0)(dataset[0])
    prompt_ids = batch["input_ids"][0][batch["labels"][0] == -100]
    cell_token, copies = processor.cell_token, processor.cell_token * processor.num_cell_tokens
    text = processor.tokenizer.decode(prompt_ids[1:]).replace(copies, cell_token)
    assert text.count(cell_token) == 1
    assert processor(text=text, cells=make_counts(1), gene_names=GENES)["input_ids"][0].tolist() == prompt_ids.tolist()


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_annotation_asks_for_the_name_alone(make_collator, dataset, processor, writer, share):
    tasks = {"annotate": 1.0} if share else {"describe": 1.0}
    batch = make_collator(("language",), panel_dropout=0.0, tasks=tasks)(take(dataset, range(8)))
    for row in range(8):
        answer = processor.tokenizer.decode(batch["labels"][row][batch["labels"][row] != -100], True).strip()
        assert (answer == writer.name(TYPES[row % 2])) == (share == 1.0)


def test_descriptions_name_genes_that_set_the_cell_apart(make_collator, processor, cells):
    collator = make_collator(("language",), panel_dropout=0.0, tasks={"describe": 1.0})
    named = 0
    for i in range(8):
        dataset = CellDataset([cells.select(np.full(10, i))], [[B_CELL] * 10])
        characteristic = characteristic_genes(*cells.row(i), collator.profile, 5)
        batch = collator(take(dataset, range(10)))
        for labels in batch["labels"]:
            genes = named_genes(processor.tokenizer.decode(labels[labels != -100]), set(GENES))
            assert genes == [GENES[gene] for gene in characteristic[: len(genes)]]
            named += bool(genes)
    assert 45 < named < 75  # three descriptions in four


def test_a_description_is_true_of_every_cell_of_which_all_it_tells_is_known(make_collator, cells, processor):
    other_donor, other_tissue = replace(B_CELL, donor="d2"), replace(B_CELL, tissue="spleen")
    facts = [B_CELL, NK_CELL, other_donor, other_tissue, B_CELL, NK_CELL, CellFacts(), CellFacts()]
    dataset = CellDataset([cells], [facts])
    collator, shared = make_collator(("contrastive",)), set()
    for epoch in range(20):
        dataset.set_epoch(epoch)
        batch = collator(take(dataset, range(8)))
        is_true = batch["description_is_true"]
        assert is_true.dtype == torch.bool
        assert is_true.diagonal().all()
        for i, ids in enumerate(batch["description_input_ids"]):
            text = processor.tokenizer.decode(ids, skip_special_tokens=True)
            assert "d1" not in text  # the donor is nothing that a cell shows
            if "blood" in text or "spleen" in text:
                own = [0, 2, 4] if "blood" in text else [3]
            elif i in (0, 2, 3, 4):
                own = [0, 2, 3, 4]  # the tissue is not told
                # "healthy" is known of all of these; a text without a type never is without a context
            elif i in (1, 5):
                own = [1, 5]
            else:
                own = list(range(8))  # "A cell." is true of all
            assert is_true[i].nonzero().flatten().tolist() == own, text
            shared.add((i, len(own)))
    assert {(0, 3), (0, 4), (3, 1), (3, 4), (6, 8)} <= shared


def test_texts_are_padded_on_the_right_and_name_the_type(make_collator, dataset, processor, writer):
    batch = make_collator(("contrastive", "flow"))(take(dataset, range(8)))
    for name in ("description", "condition"):
        ids, mask = batch[f"{name}_input_ids"], batch[f"{name}_attention_mask"]
        assert (mask.diff(dim=1) <= 0).all()
        assert (ids[mask == 0] == processor.tokenizer.pad_token_id).all()
        for row in range(8):
            text = processor.tokenizer.decode(ids[row], skip_special_tokens=True)
            found = writer.mentioned_type(text, ["B cell", "NK"])
            assert found == TYPES[row % 2].cell_type or text.startswith("A cell ")
            assert not named_genes(text, set(GENES))
