"""Fills `model_card.md` from the results of a run, or says that nothing has been measured yet.

A card says only what was measured: a missing figure is an error, never an empty cell. Must not import the model.
"""

from collections.abc import Mapping, Sequence
from importlib import resources

from huggingface_hub import EvalResult, ModelCard, ModelCardData

OURS = "scMMGPT"  # the row of a table that is the model's own
REQUIRED = {
    "model": ("name", "num_parameters", "text_model", "num_genes"),
    "data": ("name", "num_train", "num_genes", "types"),
    "run": ("seed", "versions"),
}
REQUIRED_IF_MEASURED = {"data": ("num_test", "split", "sha256"), "run": ("seconds",)}
KNN, MMD = "knn25_pca50_fit_on_train", "mmd2_log1p_raw"
REQUIRED_METRICS = {
    "annotation": ("accuracy", "balanced_accuracy", "macro_f1"),
    "description": ("right_type", "grounding_precision", "genes_named"),
    "generation": (KNN, "variance_ratio", "zero_fraction", MMD, f"{MMD}_ratio", "memorisation_ratio"),
}


def render_model_card(results: Mapping) -> str:
    """
    The model card of a trained model, Markdown with YAML metadata (tags, licence, model-index).

    Args:
        results (`dict`):
            What a run writes as `results.json`:

            - `model`: `name`, `num_parameters` (int), `text_model` (what it is, where from), `num_genes`;
            - `data`: `name`, `num_train`, `num_test`, `num_genes`, `types` (list), `split` (in words), `sha256`;
            - `run`: `seed`, `seconds`, `versions` (package -> version);
            - `annotation`, `description`, `generation`: the rows of the tasks, and `checks`: list of `goal`,
              `measured`, `reached`. A checkpoint of training has none of the four, and neither `num_test`, `split`,
              `sha256` nor `seconds`; its card says that it has not been measured.

    Returns:
        `str`: the text of README.md.

    Raises:
        ValueError: when a figure that the card shows is missing.
    """
    measured = "checks" in results or any(task in results for task in REQUIRED_METRICS)
    _check_complete(results, measured)
    name, data = results["model"]["name"], results["data"]
    card_data = ModelCardData(
        library_name="transformers",
        license="apache-2.0",
        pipeline_tag="any-to-any",
        tags=["biology", "single-cell", "transcriptomics", "scmmgpt", "custom_code"],
        model_name=name,
        eval_results=_eval_results(results) if measured else None,
    )
    template = resources.files("scmmgpt").joinpath("model_card.md").read_text(encoding="utf-8")
    card = ModelCard.from_template(
        card_data,
        template_str=template,
        model=results["model"],
        data=data,
        run=results["run"],
        measured=measured,
        checks=results.get("checks", ()),
        tables={task: _table(results[task], REQUIRED_METRICS[task]) for task in REQUIRED_METRICS if measured},
    )
    return str(card)


def _check_complete(results: Mapping, measured: bool) -> None:
    required = [(part, key) for part, keys in REQUIRED.items() for key in keys]
    if measured:
        required += [(part, key) for part, keys in REQUIRED_IF_MEASURED.items() for key in keys]
    missing = [f"{part}.{key}" for part, key in required if key not in results.get(part, {})]
    missing += ["checks"] if measured and "checks" not in results else []
    for task, metrics in REQUIRED_METRICS.items() if measured else ():
        rows = results.get(task, ())
        if not any(row.get("row") == OURS for row in rows):
            missing.append(f"{task} (no row {OURS!r})")
        missing += [f"{task}.{row['row']}.{key}" for row in rows for key in metrics if key not in row]
    if missing:
        raise ValueError(f"results lacks {', '.join(missing)}: a card needs all of them, so evaluate every task first")


def _ours(rows: Sequence[Mapping]) -> Mapping:
    return next(row for row in rows if row["row"] == OURS)


def _eval_results(results: Mapping) -> list[EvalResult]:
    entries = []
    for task, metrics in REQUIRED_METRICS.items():
        ours = _ours(results[task])
        for metric in metrics:
            if ours[metric] is not None:
                entries.append(
                    EvalResult(
                        task_type="any-to-any",
                        dataset_type=results["data"]["name"],
                        dataset_name=results["data"]["name"],
                        dataset_split="held-out cells",
                        metric_type=metric,
                        metric_name=f"{task}: {metric}",
                        metric_value=round(float(ours[metric]), 4),
                    )
                )
    return entries


def _table(rows: Sequence[Mapping], metrics: Sequence[str]) -> str:
    """A Markdown table of the rows, intervals in brackets."""
    lines = ["| row | " + " | ".join(f"`{metric}`" for metric in metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
    for row in rows:
        name = f"**{row['row']}**" if row["row"] == OURS else row["row"]
        lines.append(f"| {name} | " + " | ".join(_value(row, metric) for metric in metrics) + " |")
    return "\n".join(lines)


def _value(row: Mapping, metric: str) -> str:
    value, low, high = row[metric], row.get(f"{metric}_low"), row.get(f"{metric}_high")
    if value is None:
        return "–"
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{value:.4f}{interval}" if 0 < abs(value) < 0.01 else f"{value:.3f}{interval}"
