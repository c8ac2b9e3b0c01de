"""The figures, the HTML report and the model card: complete, self-contained, and plain about what was missed."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import yaml
from PIL import Image

from scmmgpt.data import CaptionWriter, Ontology
from scmmgpt.evaluation import LabelledCells, plots
from scmmgpt.evaluation.goals import Check
from scmmgpt.evaluation.report import Illustration, Section, write_report
from scmmgpt.evaluation.tables import Column, Table, annotation_table, description_table, generation_table
from scmmgpt.evaluation.tasks import OURS, generation
from scmmgpt.evaluation.tasks.description import ReadDescription
from scmmgpt.model_card import render_model_card

GENES = ["LYZ", "CD3E", "MS4A1", "NKG7", "ACTB", "B2M"]


def draw_cells(seed: int, num_cells: int = 40) -> LabelledCells:
    rng = np.random.default_rng(seed)
    labels = np.array(["Monocyte", "T cell", "B <cell>"])[np.arange(num_cells) % 3]
    counts = rng.poisson(1.0, size=(num_cells, 6))
    counts[np.arange(num_cells), np.arange(num_cells) % 3] += 6
    return LabelledCells(counts, labels, GENES)


def ink(figure) -> float:
    """Share of pixels that are not white: an empty figure has hardly any."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=60)
    pixels = np.asarray(Image.open(buffer).convert("L"))
    return float((pixels < 250).mean())


def texts(figure) -> set[str]:
    from matplotlib.text import Text

    return {text.get_text() for text in figure.findobj(Text) if text.get_text()}


# Figures


def test_confusion_matrix_counts_and_gathers_unknown_names():
    labels = np.array(["a", "a", "a", "b"])
    figure = plots.confusion_matrix(labels, ["a", "b", None, "b"])
    axes = figure.axes[0]
    np.testing.assert_allclose(axes.images[0].get_array(), [[1 / 3, 1 / 3, 1 / 3], [0, 1, 0]])
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b", plots.OTHER]
    assert plots.OTHER not in texts(plots.confusion_matrix(labels, labels))


def test_metric_bars_show_values_and_skip_missing_ones():
    rows = [
        {"row": OURS, "accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9},
        {"row": "majority class", "accuracy": 0.3},
        {"row": "one donor", "accuracy": 0.4, "accuracy_low": None, "accuracy_high": None},
        {"row": "unknown", "accuracy": None},
    ]
    shown = texts(plots.metric_bars(rows, "accuracy", "accuracy"))
    assert {OURS, "0.800", "majority class", "0.300"} <= shown
    assert "unknown" not in shown


def test_loss_curves_put_stages_after_one_another():
    history = [{"step": step, "loss": 2.0 / step, "flow_loss": 1.0, "learning_rate": 0.1} for step in (5, 10)]
    closing = [{"step": 10, "train_loss": 1.0}]
    figure = plots.loss_curves({"stage 1": history + closing, "stage 2": history})
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert set(panels) == {"loss", "flow loss"}
    stretches = [list(line.get_xdata()) for line in panels["loss"].lines]
    assert [5, 10] in stretches
    assert [15, 20] in stretches
    with pytest.raises(ValueError, match="holds no loss"):
        plots.loss_curves({"stage 1": [{"step": 1, "learning_rate": 0.1}]})


def test_umap_shows_both_sets_in_one_embedding_and_repeats():
    one = plots.umap_real_and_generated(draw_cells(0), draw_cells(1), seed=0)
    two = plots.umap_real_and_generated(draw_cells(0), draw_cells(1), seed=0)
    assert {"real (40 cells)", "generated (40 cells)"} <= texts(one)
    left, right = one.axes
    assert left.get_xlim() == right.get_xlim()
    np.testing.assert_array_equal(left.collections[0].get_offsets(), two.axes[0].collections[0].get_offsets())
    assert ink(one) > 0.01


def test_top_markers_are_the_raised_genes():
    markers = plots.top_markers(draw_cells(0, 90), per_type=1)
    assert markers == {"Monocyte": ["LYZ"], "T cell": ["CD3E"], "B <cell>": ["MS4A1"]}


def test_marker_dots_hold_the_share_and_the_mean():
    real, generated = draw_cells(0), draw_cells(1)
    figure = plots.marker_dots(real, generated, {"Monocyte": ["LYZ"], "T cell": ["CD3E"], "absent type": ["ACTB"]})
    dots = figure.axes[0].collections[0]
    monocytes = real.counts.toarray()[real.labels == "Monocyte"]
    expected = np.log1p(1e4 * monocytes[:, 0] / monocytes.sum(axis=1)).mean()
    assert dots.get_array()[0] == pytest.approx(expected)
    share = (real.counts.toarray()[real.labels == "Monocyte", 1] > 0).mean()
    assert dots.get_sizes()[1] == pytest.approx(95 * share)
    assert "absent type" not in texts(figure)
    assert ink(plots.gene_moment_scatter(real, generated)) > 0.01


# Tables


def test_best_is_marked_among_rows_that_compete():
    rows = [
        {"row": OURS, "a": 0.9, "b": 0.98, "c": None},
        {"row": "baseline", "a": 0.9001, "b": 1.2, "c": 0.5},
        {"row": "real", "a": 1.0, "b": 1.0, "c": 0.1},
    ]
    table = Table(rows, [Column("a", "A"), Column("b", "B", 1.0), Column("c", "C", "low")], "caption", ["real"])
    marks = {row["row"]: [best for *_, best in cells] for row, cells in table.cells()}
    # equal to the digits shown, both are best; one competitor alone is not
    assert marks == {OURS: [True, True, False], "baseline": [True, False, False], "real": [False, False, False]}


def test_cells_show_intervals_minus_signs_and_gaps():
    rows = [{"row": OURS, "a": -0.25, "a_low": -0.5, "a_high": 0.25, "b": None}]
    (_, cells), *_ = Table(rows, [Column("a", "A", digits=2), Column("b", "B")], "").cells()
    assert cells == [("−0.25", "−0.50 to 0.25", False), ("–", "", False)]


# Report


class Page(HTMLParser):
    """Collects addresses and text, and fails on tags that do not match."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in {"src", "href", "action", "data", "srcset"}]
        if tag not in {"meta", "img", "link", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += data


@pytest.fixture
def page(tmp_path):
    checks = [Check("accuracy above 0.9", "0.750", False), Check("variance between 0.85 and 1.15", "1.01", True)]
    rows = [{"row": OURS, "accuracy": 0.75}, {"row": "majority class", "accuracy": 0.3}]
    cards = [
        ReadDescription("A <b>T cell</b> with LYZ.", "T cell", "T cell", [], ["LYZ"]),
        ReadDescription("", "B cell", None, [], []),
    ]
    figure = plots.metric_bars(rows, "accuracy", "accuracy")
    sections = [
        Section(
            "Annotation", "First.\n\nSecond.", [annotation_table(rows, "40 cells.")], [Illustration(figure, "c", "a")]
        ),
        Section("Description", descriptions=cards),
    ]
    path = write_report(
        tmp_path / "report.html", "A <title>", "Short.", checks, sections, {"seed": 0, "seconds": None}
    )
    source = path.read_text(encoding="utf-8")
    return source, Page(source)


def test_report_is_one_well_formed_file_that_fetches_nothing(page):
    source, parsed = page
    assert parsed.open == []
    assert parsed.addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in parsed.addresses)
    assert not re.search(r"https?://|@import|<script|<link", source)
    anchors = {address[1:] for address in parsed.addresses if address.startswith("#")}
    assert all(f'id="{anchor}"' in source for anchor in anchors)
    assert 'name="viewport"' in source
    assert "@media print" in source


def test_report_says_what_was_missed_and_escapes_what_it_was_given(page):
    source, parsed = page
    assert "1 of 2 goals were reached." in parsed.text
    assert "accuracy above 0.9. Measured: 0.750." in parsed.text
    assert "A <title>" in parsed.text
    assert "A <b>T cell</b> with LYZ." in parsed.text
    assert "<b>T cell" not in source
    assert "The text names no type." in parsed.text
    assert "(no text)" in parsed.text
    assert '<span class="absent">LYZ</span>' in source
    assert 'class="ours"' in source
    assert "unknown" in parsed.text


def test_report_without_misses_has_no_list_of_misses(tmp_path):
    checks = [Check("goal", "1", True)]
    path = write_report(tmp_path / "report.html", "Title", "Short.", checks, [], {"seed": 0})
    assert "Not reached" not in path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="does not exist: create it first"):
        write_report(tmp_path / "missing" / "report.html", "Title", "Short.", checks, [], {})


def test_the_task_tables_name_keys_that_the_tasks_return():
    train, test, generated = draw_cells(0, 60), draw_cells(1), draw_cells(2)
    from scmmgpt.evaluation.tasks import annotation, description

    sentences = {label: f"A {label}. Its genes include LYZ." for label in np.unique(train.labels)}
    writer = CaptionWriter(Ontology())
    tables = [
        annotation_table(annotation.evaluate(train, test, list(test.labels)), "p"),
        description_table(
            description.evaluate(train, test, [sentences[x] for x in test.labels], sentences, writer), "p"
        ),
        generation_table(generation.evaluate(train, test, generated), "p"),
    ]
    for table in tables:
        for column in table.columns:
            assert all(column.key in row for row in table.rows), column.key


# Model card


@pytest.fixture
def results():
    def rows(*metrics):
        return [{"row": name, **dict.fromkeys(metrics, 0.5)} for name in (OURS, "baseline")]

    return {
        "model": {"name": "nano", "num_parameters": 1234567, "text_model": "a small Llama", "num_genes": 765},
        "data": {
            "name": "pbmc",
            "num_train": 560,
            "num_test": 140,
            "num_genes": 765,
            "types": ["B cell", "T cell"],
            "split": "by cell",
            "sha256": "ab12",
        },
        "annotation": rows("accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "macro_f1"),
        "description": rows("right_type", "grounding_precision", "genes_named"),
        "generation": rows(
            "knn25_pca50_fit_on_train",
            "variance_ratio",
            "zero_fraction",
            "mmd2_log1p_raw",
            "mmd2_log1p_raw_ratio",
            "memorisation_ratio",
        ),
        "checks": [{"goal": "a goal", "measured": "0.5", "reached": False}],
        "run": {"seed": 0, "seconds": 301.2, "versions": {"torch": "2.13.0"}},
    }


def test_model_card_holds_metadata_and_measurements(results):
    card = render_model_card(results)
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["library_name"] == "transformers"
    assert metadata["license"] == "apache-2.0"
    (entry,) = metadata["model-index"]
    measured = {metric["name"]: metric["value"] for each in entry["results"] for metric in each["metrics"]}
    assert measured["annotation: accuracy"] == 0.5
    assert measured["generation: variance_ratio"] == 0.5
    assert "| a goal | 0.5 | **no** |" in body
    assert "| **scMMGPT** | 0.500 (0.500 to 0.500) |" in body
    assert "1,234,567 parameters" in body
    assert "trust_remote_code=True" in body
    assert "{{" not in card
    assert "arXiv 2503.09427" in body


def test_a_metric_without_a_value_is_shown_as_a_gap_and_left_out_of_the_metadata(results):
    results["description"][0]["grounding_precision"] = None
    card = render_model_card(results)
    assert "description: grounding_precision" not in card
    assert "| **scMMGPT** | 0.500 | – | 0.500 |" in card


def test_an_incomplete_card_is_refused_naming_every_gap(results):
    del results["model"]["num_genes"]
    del results["run"]
    del results["checks"]
    results["annotation"][1].pop("macro_f1")
    results["generation"] = []
    with pytest.raises(ValueError, match="results lacks") as error:
        render_model_card(results)
    for gap in (
        "model.num_genes",
        "run.seed",
        "run.versions",
        "checks",
        "annotation.baseline.macro_f1",
        "generation (no row 'scMMGPT')",
    ):
        assert gap in str(error.value)
