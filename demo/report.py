"""The demo's figures and its report, drawn from results and answers alone."""

import json
from pathlib import Path
from typing import Any

from ..data import CaptionWriter
from ..evaluation import plots
from ..evaluation.cells import LabelledCells
from ..evaluation.goals import Check
from ..evaluation.report import Illustration, Section, write_report
from ..evaluation.tables import annotation_table, description_table, generation_table
from ..evaluation.tasks.description import ReadDescription, read_descriptions

NUM_SAMPLES = 8


def write_demo_report(
    output_dir: Path,
    results: dict[str, Any],
    answers: dict[str, Any],
    train: LabelledCells,
    test: LabelledCells,
    writer: CaptionWriter,
) -> Path:
    """
    Writes `report.html`.

    Args:
        output_dir (`Path`): the demo's folder; the loss curves are read from its `training/`.
        results (`dict`): what `results.json` holds.
        answers (`dict`): what the model said and generated; see [`~demo.run.answer`].
        train, test ([`LabelledCells`]): the real cells.
        writer ([`CaptionWriter`]): reads the descriptions.
    """
    data, checks = results["data"], [Check(**check) for check in results["checks"]]
    protocol = f"{data['num_test']} held-out cells of {data['name']}; {data['split']}."
    return write_report(
        output_dir / "report.html",
        title=f"scMMGPT on {data['name']}",
        summary=_summary(results, checks),
        checks=checks,
        sections=[
            _annotation(results, answers, test, protocol),
            _description(results, read_descriptions(test, answers["descriptions"], writer, data["types"]), protocol),
            _generation(results, answers, train, test, protocol),
            _training(output_dir, results),
        ],
        metadata={
            "data SHA-256": data["sha256"],
            "seed": results["run"]["seed"],
            "seconds": round(results["run"]["seconds"]),
            **results["run"]["versions"],
            "ontologies": results["run"]["ontologies"],
        },
    )


def _summary(results: dict[str, Any], checks: list[Check]) -> str:
    data, model = results["data"], results["model"]
    ours = {task: results[task][0] for task in ("annotation", "description", "generation")}
    reached = sum(check.reached for check in checks)
    return (
        f"A scMMGPT model of {model['num_parameters']:,} parameters was trained from nothing on {data['num_train']} "
        f"cells, saved, loaded back by its Auto classes, and asked about {data['num_test']} cells that it had never "
        "seen.\n\n"
        f"It gave {ours['annotation']['accuracy']:.0%} of them the right type out of {len(data['types'])}; "
        f"{ours['description']['right_type']:.0%} of its descriptions name the right type. Of the cells that it "
        "generated from words, a classifier fitted on real cells recognised "
        f"{ours['generation']['knn25_pca50_fit_on_train']:.0%}, against "
        f"{results['generation'][1]['knn25_pca50_fit_on_train']:.0%} of the real held-out cells. "
        f"{reached} of {len(checks)} goals were reached."
    )


def _annotation(results: dict[str, Any], answers: dict[str, Any], test: LabelledCells, protocol: str) -> Section:
    return Section(
        heading="Annotation: which type is this cell?",
        prose="Each cell is compared with sentences that name the candidate types, weighed by how common the "
        "types are among the training cells.",
        tables=[annotation_table(results["annotation"], protocol)],
        illustrations=[
            Illustration(
                plots.confusion_matrix(test.labels, answers["predicted"]),
                "Rows: the author's label. Columns: the model's answer. Shares of each row, with counts.",
                "Confusion matrix of true and predicted cell types",
            ),
            Illustration(
                plots.metric_bars(results["annotation"], "accuracy", "Accuracy on held-out cells"),
                "Accuracy of the model and of the baselines, trained on the same cells. 95 % intervals.",
                "Bar chart of accuracy by method",
            ),
        ],
    )


def _description(results: dict[str, Any], read: list[ReadDescription], protocol: str) -> Section:
    # Evenly spaced over the types, so that the sample shows rare types too, right and wrong as they come.
    order = sorted(read, key=lambda description: description.true_label)
    shown = [order[i * len(order) // NUM_SAMPLES] for i in range(min(NUM_SAMPLES, len(order)))]
    return Section(
        heading="Description: the cell in words",
        prose="The model writes freely; the texts below are not chosen, but spread evenly over the cell types.",
        tables=[description_table(results["description"], protocol)],
        descriptions=shown,
    )


def _generation(
    results: dict[str, Any], answers: dict[str, Any], train: LabelledCells, test: LabelledCells, protocol: str
) -> Section:
    generated = answers["generated_cells"]
    return Section(
        heading="Generation: cells from words",
        prose=(
            "For every held-out cell, one cell was generated from a sentence that names its type: raw counts of all "
            f"genes, with guidance {results['run']['guidance_scale']:g}."
        ),
        tables=[generation_table(results["generation"], protocol)],
        illustrations=[
            Illustration(
                plots.umap_real_and_generated(test, generated, seed=results["run"]["seed"]),
                "One UMAP of real held-out cells and generated cells together, shown side by side.",
                "UMAP of real and generated cells coloured by type",
            ),
            Illustration(
                plots.marker_dots(test, generated, plots.top_markers(train)),
                "Marker genes, found in the training cells: size is the share of cells that express the gene, "
                "colour its mean.",
                "Dot plot of marker genes in real and generated cells",
            ),
            Illustration(
                plots.gene_moment_scatter(test, generated),
                "Mean and variance of every gene, real against generated.",
                "Scatter plots of gene means and variances",
            ),
        ],
    )


def _training(output_dir: Path, results: dict[str, Any]) -> Section:
    histories = {}
    for path in sorted((output_dir / "training" / "stages").glob("*/losses.json")):
        histories[path.parent.name.partition("-")[2]] = json.loads(path.read_text(encoding="utf-8"))
    return Section(
        heading="Training",
        prose=f"Three stages on {results['data']['num_train']} cells; each loss by its own name.",
        illustrations=[
            Illustration(
                plots.loss_curves(histories), "Training losses, stage by stage.", "Line charts of the training losses"
            )
        ],
    )
