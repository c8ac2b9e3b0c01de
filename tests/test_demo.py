"""The main job in small, from an .h5ad as CELLxGENE writes it to the report; and the command line around it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
import yaml

from scmmgpt import cli
from scmmgpt.data import CaptionWriter, Ontology, SplitManifest, demo_cells, named_genes
from scmmgpt.demo import run, run_demo
from scmmgpt.evaluation.tasks import OURS

from .micro import make_adata, make_recipe, write_recipe

WRITTEN = {"annotated.h5ad", "generated.h5ad", "model", "report.html", "results.json", "split.json", "training"}
HEADINGS = ("Goals", "Annotation", "Description", "Generation", "Training")
NUM_CELLS, NUM_TEST = 120, 24


@pytest.fixture(scope="module")
def blood() -> anndata.AnnData:
    """30 real cells of each of four types, named as CELLxGENE names genes."""
    cells = demo_cells()
    types = cells.obs["cell_type"].value_counts().index[:4]
    rows = [row for name in types for row in np.flatnonzero(cells.obs["cell_type"] == name)[: NUM_CELLS // 4]]
    cells = cells[sorted(rows)].copy()
    cells.var["feature_name"] = cells.var_names
    cells.var_names = [f"ENSG{i:011d}" for i in range(cells.n_vars)]
    return cells


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    values = make_recipe(folder / "unused", num_steps=4)
    return write_recipe(folder / "micro.yaml", values)


@pytest.fixture(scope="module")
def finished(blood, recipe, tmp_path_factory) -> tuple[Path, dict]:
    """The folder of a run, and what it returned."""
    folder = tmp_path_factory.mktemp("demo")
    blood.write_h5ad(folder / "blood.h5ad")
    return folder / "out", run_demo(folder / "out", data=folder / "blood.h5ad", recipe=recipe, seed=3)


def read(path: Path) -> dict:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(path.read_text(), parse_constant=refuse)


# The run


def test_everything_is_written(finished):
    folder, results = finished
    assert {path.name for path in folder.iterdir()} == WRITTEN
    assert read(folder / "results.json") == json.loads(json.dumps(results))
    assert results["data"]["name"] == "blood.h5ad"
    assert (results["data"]["num_train"], results["data"]["num_test"]) == (NUM_CELLS - NUM_TEST, NUM_TEST)
    assert results["data"]["num_genes"] == results["model"]["num_genes"] == 765
    assert len(results["data"]["types"]) == 4
    assert results["model"]["name"] == "scMMGPT micro"
    assert results["run"]["seed"] == 3
    assert results["run"]["seconds"] > 0
    assert results["run"]["ontologies"] == Ontology().version


def test_the_tables_hold_ours_and_the_baselines(finished):
    results = finished[1]
    rows = {task: [row["row"] for row in results[task]] for task in ("annotation", "description", "generation")}
    assert rows == {
        "annotation": [OURS, "logistic regression", "k-NN on 50 PCs", "majority class"],
        "description": [OURS, "classify, then look up", "shuffled sentences"],
        "generation": [
            OURS,
            "held-out real cells",
            "resampled training cells",
            "class-mean profile",
            "label-shuffled training cells",
        ],
    }
    assert all(row["num_cells"] == NUM_TEST for task in rows for row in results[task])
    assert results["annotation"][1]["accuracy"] > results["annotation"][3]["accuracy"]
    assert results["description"][1]["right_type"] == results["annotation"][1]["accuracy"]  # read back without loss
    assert results["generation"][1]["variance_ratio"] == 1
    assert len(results["checks"]) == 5
    assert all(set(check) == {"goal", "measured", "reached"} for check in results["checks"])


def test_the_split_has_no_overlap_and_only_test_cells_are_answered(finished, blood):
    folder = finished[0]
    manifest = SplitManifest.from_json((folder / "split.json").read_text())
    train, test = set(manifest.cells["train"]), set(manifest.cells["test"])
    assert not train & test
    assert train | test == set(blood.obs_names)
    assert not manifest.cells["validation"]
    assert not manifest.cells["untested"]
    assert (manifest.seed, manifest.unit, manifest.label_key) == (3, "cell", "cell_type")
    assert set(anndata.read_h5ad(folder / "annotated.h5ad").obs_names) == test


def test_the_answers_are_in_the_annotated_cells(finished, blood):
    folder, results = finished
    cells = anndata.read_h5ad(folder / "annotated.h5ad")
    assert {"scmmgpt_label", "scmmgpt_label_ontology_term_id", "scmmgpt_score", "scmmgpt_description"} <= set(
        cells.obs
    )
    assert cells.obsm["scmmgpt_scores"].shape == (NUM_TEST, 4)
    assert cells.var_names.tolist() == blood.var["feature_name"].tolist()
    assert cells.var["ensembl_id"].tolist() == blood.var_names.tolist()
    np.testing.assert_array_equal(cells.X.toarray(), blood[cells.obs_names].X.toarray())

    labels = cells.obs["cell_type"].astype(str)
    ours = results["annotation"][0]
    assert ours["accuracy"] == pytest.approx((cells.obs["scmmgpt_label"].astype(str) == labels).mean())
    writer, types = CaptionWriter(Ontology()), results["data"]["types"]
    texts = cells.obs["scmmgpt_description"]
    named = [writer.mentioned_type(text, types) for text in texts]
    assert results["description"][0]["right_type"] == pytest.approx(np.mean(np.array(named) == labels.to_numpy()))
    genes = [named_genes(text, set(cells.var_names)) for text in texts]
    assert results["description"][0]["genes_named"] == pytest.approx(np.mean([len(each) for each in genes]))


def test_as_many_cells_are_generated_as_were_held_out(finished):
    folder, results = finished
    cells, real = anndata.read_h5ad(folder / "generated.h5ad"), anndata.read_h5ad(folder / "annotated.h5ad")
    assert cells.var_names.tolist() == real.var_names.tolist()
    assert cells.obs["cell_type"].value_counts().to_dict() == real.obs["cell_type"].value_counts().to_dict()
    assert cells.obs.groupby("cell_type", observed=True)["prompt"].nunique().tolist() == [1] * 4
    assert cells.X.dtype == np.int32
    assert results["generation"][0]["zero_fraction"] == pytest.approx((cells.X.toarray() == 0).mean())


def test_the_model_folder_is_the_model_that_answered(finished, repository):
    folder, results = finished
    assert {file.name for file in repository.glob("*_scmmgpt.py")} <= {
        path.name for path in (folder / "model").iterdir()
    }
    _, front, body = (folder / "model" / "README.md").read_text().split("---\n", 2)
    metrics = yaml.safe_load(front)["model-index"][0]["results"]
    measured = {metric["name"]: metric["value"] for each in metrics for metric in each["metrics"]}
    assert measured["annotation: accuracy"] == pytest.approx(results["annotation"][0]["accuracy"], abs=1e-4)
    assert "96 cells of blood.h5ad" in body
    assert results["data"]["sha256"] in body
    checkpoint = (folder / "training" / "model" / "README.md").read_text()
    assert "96 cells of blood.h5ad" in checkpoint
    assert "nothing has been measured" in checkpoint


def test_the_report_can_be_read(finished):
    folder, results = finished
    page = (folder / "report.html").read_text()
    found = re.findall(r"<h2>(.*?)</h2>", page)
    assert [next(name for name in HEADINGS if heading.startswith(name)) for heading in found] == list(HEADINGS)
    assert page.count('src="data:image/png;base64,') == 6
    assert not re.search(r'(?:src|href)="https?:', page)
    assert page.count('<article class="card">') == 8
    assert page.count("<table") == 4
    for text in (*results["data"]["types"], "blood.h5ad", results["data"]["sha256"], "logistic regression"):
        assert text in page


# The folder


def test_a_folder_in_use_is_refused_and_a_foreign_one_always(finished, blood, recipe, tmp_path):
    folder = finished[0]
    before = (folder / "results.json").read_bytes()
    with pytest.raises(ValueError, match=r"is not empty\. Choose another folder, or pass --overwrite"):
        run_demo(folder, recipe=recipe)
    assert (folder / "results.json").read_bytes() == before

    foreign = tmp_path / "mine"
    foreign.mkdir()
    for name in ("thesis.docx", "split.json"):
        (foreign / name).write_text("precious")
    with pytest.raises(ValueError, match=r"holds thesis\.docx, which no earlier run .* Nothing was replaced"):
        run_demo(foreign, recipe=recipe, overwrite=True)
    (foreign / "thesis.docx").rename(foreign / "model")  # a name of ours, and no manifest beside it
    (foreign / "split.json").unlink()
    with pytest.raises(ValueError, match="holds model, which no earlier run"):
        run_demo(foreign, recipe=recipe, overwrite=True)
    assert (foreign / "model").read_text() == "precious"
    with pytest.raises(ValueError, match="is a file"):
        run_demo(foreign / "model", recipe=recipe, overwrite=True)


def test_overwrite_replaces_an_earlier_run_once_the_new_one_can_begin(tmp_path, recipe, monkeypatch):
    earlier = tmp_path / "out"
    for name in ("model", "training"):
        (earlier / name / "deep").mkdir(parents=True)
    for name in WRITTEN - {"model", "training"}:
        (earlier / name).write_text("old")
    make_adata().write_h5ad(tmp_path / "cells.h5ad")
    arguments = {"data": tmp_path / "cells.h5ad", "recipe": recipe, "overwrite": True}
    with pytest.raises(ValueError, match="`label_key`"):
        run_demo(earlier, label_key="absent", **arguments)
    assert (earlier / "report.html").read_text() == "old"

    def stop(plan, sources):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "pretrain", stop)
    with pytest.raises(KeyboardInterrupt):
        run_demo(earlier, **arguments)
    assert [path.name for path in earlier.iterdir()] == ["split.json"]
    assert SplitManifest.from_json((earlier / "split.json").read_text()).cells["test"]


# Splits


def test_donors_are_held_out_whole_and_types_of_theirs_alone_are_not_tested():
    cells = make_adata(120)
    cells.obs["donor_id"] = [f"d{i // 20}" for i in range(120)]
    for seed in range(6):
        train, test, manifest = run._split(cells, "cell_type", seed)
        assert manifest.unit == "group"
        assert not set(train.obs["donor_id"]) & set(test.obs["donor_id"])
        (held,) = test.obs["donor_id"].unique()
        rare = cells.copy()
        rare.obs.loc[rare.obs["donor_id"] == held, "cell_type"] = ["neuron", "B cell", "NK", "NK"] * 5
        train, test, manifest = run._split(rare, "cell_type", seed)
        assert set(test.obs["cell_type"]) == {"B cell", "NK"}
        assert manifest.cells["test"] == list(test.obs_names)
        untested = rare.obs.loc[manifest.cells["untested"]]
        assert untested["cell_type"].tolist() == ["neuron"] * 5
        assert set(untested["donor_id"]) == {held}


def test_intervals_are_over_donors_where_donors_are_held_out(monkeypatch, recipe, tmp_path):
    seen = {}

    def remember(name, function):
        def evaluate(*arguments):
            seen[name] = arguments[-2]
            return function(*arguments)

        return evaluate

    for task in (run.annotation, run.description):
        monkeypatch.setattr(task, "evaluate", remember(task.__name__, task.evaluate))
    cells = make_adata(120)
    cells.obs["donor_id"] = [f"d{i // 10}" for i in range(120)]
    # counts kept elsewhere than in X
    cells.layers["counts"], cells.X = cells.X, cells.X.log1p()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    results = run_demo(tmp_path / "out", data=tmp_path / "cells.h5ad", layer="counts", recipe=recipe)
    annotated = anndata.read_h5ad(tmp_path / "out" / "annotated.h5ad")
    assert annotated.obs["donor_id"].nunique() == 2
    assert len(seen) == 2
    for groups in seen.values():
        assert list(groups) == annotated.obs["donor_id"].tolist()
    assert results["data"]["split"] == "20 % held out by group, seed 0"
    assert (cells[annotated.obs_names].layers["counts"] != annotated.X).nnz == 0
    written = yaml.safe_load((tmp_path / "out" / "training" / "recipe.yaml").read_text())
    assert written["data"]["layer"] == "counts"


def test_the_answers_are_kept_when_measuring_fails(monkeypatch, recipe, blood, tmp_path):
    def fail(*arguments, **kwargs):
        raise ValueError("cannot be measured")

    monkeypatch.setattr(run, "measure", fail)
    blood.write_h5ad(tmp_path / "blood.h5ad")
    with pytest.raises(ValueError, match="cannot be measured"):
        run_demo(tmp_path / "out", data=tmp_path / "blood.h5ad", recipe=recipe)
    assert (tmp_path / "out" / "annotated.h5ad").is_file()
    assert (tmp_path / "out" / "generated.h5ad").is_file()


def test_what_has_no_value_is_null():
    row = {"row": OURS, "num_cells": 3, "a": float("nan"), "b": np.float64("nan"), "c": 0.5, "d": None}
    assert run._without_nan(row) == {"row": OURS, "num_cells": 3, "a": None, "b": None, "c": 0.5, "d": None}


def test_labels_are_tidied(tmp_path):
    cells = make_adata()
    cells.obs["cell_type"] = [f"  {label.replace(' ', '  ')}\n" for label in cells.obs["cell_type"]]
    run._tidy_labels(cells, "cell_type", CaptionWriter(Ontology()))
    assert set(cells.obs["cell_type"]) == {"B cell", "NK", "monocyte"}


# The command line


def relabelled(labels: list[str | None]) -> anndata.AnnData:
    cells = make_adata()
    cells.obs["cell_type"] = [labels[i % len(labels)] for i in range(cells.n_obs)]
    return cells


def normalised() -> anndata.AnnData:
    cells = make_adata()
    cells.X = cells.X.log1p()
    return cells


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        (None, [], "where there is nothing; pass the path of an .h5ad file"),
        ("some text", [], "which is not an HDF5 file"),
        (make_adata(), ["--label-key", "celltype"], "'celltype', but `obs` has ['cell_type', 'tissue']"),
        (relabelled(["B cell"]), [], "has 1 type(s), 1 of them with 5 cells or more. At least two"),
        (relabelled(["B cell", "unknown"]), [], "is empty or 'unknown' for 20 of 40 cells"),
        (relabelled(["B cell", None]), [], "is empty or 'unknown' for 20 of 40 cells"),
        (relabelled(["B cell", "B cells"]), [], "'B cell' and 'B cells', which are both written"),
        (make_adata(20), [], "of 20 cells, 17 are for training and 3"),
        (make_adata()[:, :0].copy(), [], "0 genes"),
        (make_adata()[:0].copy(), [], "has 0 type(s)"),
        (normalised(), [], "raw counts"),
        (make_adata(), ["--layer", "counts"], "`layer` is 'counts', but the file has none"),
        (make_adata(), ["--recipe", "absent.yaml"], "there is no recipe at absent.yaml"),
    ],
    ids=[
        "missing", "no h5ad", "wrong key", "one type", "unknown labels", "missing labels", "labels alike", "few cells",
        "no genes", "no cells", "normalised", "no layer", "no recipe",
    ],
)  # fmt: skip
def test_what_the_user_can_mend_is_said_in_one_line(tmp_path, recipe, capsys, cells, options, message):
    path = tmp_path / "cells.h5ad"
    if isinstance(cells, str):
        path.write_text(cells)
    elif cells is not None:
        cells.write_h5ad(path)
    options = ["--recipe", str(recipe), *options]
    assert cli.main(["demo", "--data", str(path), "--output-dir", str(tmp_path / "out"), *options]) == 1
    printed = capsys.readouterr().err.strip().splitlines()[-1]
    assert printed.startswith("scmmgpt: ")
    assert message in printed
    assert "Traceback" not in printed


def test_commands_write_their_answers(finished, tmp_path, capsys):
    folder, output = finished[0], tmp_path / "answer.h5ad"
    anndata.read_h5ad(folder / "annotated.h5ad")[:3].write_h5ad(tmp_path / "cells.h5ad")
    common = [str(tmp_path / "cells.h5ad"), "--model", str(folder / "model"), "--output", str(output)]
    labels = ["Dendritic", "CD56+ NK", "CD19+ B"]
    assert cli.main(["annotate", *common, "--labels", *labels, "--min-score", "1.5"]) == 0
    cells = anndata.read_h5ad(output)
    assert cells.obs["scmmgpt_label"].tolist() == ["unassigned"] * 3
    assert cells.uns["scmmgpt_labels"].tolist() == labels
    whole = output.read_bytes()
    with pytest.raises(SystemExit):
        cli.main(["embed", *common])  # never over what is there
    assert "is there already" in capsys.readouterr().err
    assert output.read_bytes() == whole
    output.unlink()
    assert cli.main(["embed", *common]) == 0
    assert anndata.read_h5ad(output).obsm["X_scmmgpt"].shape == (3, 8)
    output.unlink()
    assert cli.main(["describe", *common]) == 0
    expected = anndata.read_h5ad(folder / "annotated.h5ad").obs["scmmgpt_description"][:3].tolist()
    assert anndata.read_h5ad(output).obs["scmmgpt_description"].tolist() == expected
    output.unlink()
    generate = ["generate", "A B cell.", "An NK cell.", "--model", str(folder / "model"), "--output", str(output)]
    assert cli.main([*generate, "-n", "2", "--seed", "5"]) == 0
    assert anndata.read_h5ad(output).obs["prompt"].tolist() == ["A B cell."] * 2 + ["An NK cell."] * 2
    assert "Traceback" not in capsys.readouterr().err


def test_pretrain_is_a_command_and_a_module(tmp_path, capsys):
    values = make_recipe(tmp_path / "unused", num_steps=1, data={"sources": [str(tmp_path / "cells.h5ad")]})
    values["stages"] = values["stages"][:1]
    path = write_recipe(tmp_path / "micro.yaml", values)
    cells = make_adata()
    cells.layers["counts"], cells.X = cells.X, cells.X.log1p()
    cells.write_h5ad(tmp_path / "cells.h5ad")
    command = ["pretrain", str(path), "--output-dir", str(tmp_path / "run")]
    assert cli.main(command) == 1
    assert "raw counts" in capsys.readouterr().err
    assert cli.main([*command, "--layer", "counts"]) == 0
    assert (tmp_path / "run" / "model" / "config.json").is_file()
    assert str(tmp_path / "run" / "model") in capsys.readouterr().out
    assert cli.main([*command, "--layer", "counts"]) == 1
    assert "holds a training run already. Pass --resume" in capsys.readouterr().err
    module = [sys.executable, "-m", "scmmgpt.train.pretrain", "absent.yaml"]
    done = subprocess.run(module, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert done.stderr.startswith("scmmgpt: `path`: there is no recipe at absent.yaml")


def test_a_missing_package_is_said_with_its_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "scanpy", None)
    path = write_recipe(tmp_path / "micro.yaml", make_recipe(tmp_path / "run"))
    assert cli.main(["pretrain", str(path)]) == 1
    assert "come with scanpy: pip install 'scmmgpt[demo]'" in capsys.readouterr().err


def test_a_model_that_is_not_there_is_said_in_one_line(tmp_path, capsys):
    make_adata(2).write_h5ad(tmp_path / "cells.h5ad")
    command = ["embed", str(tmp_path / "cells.h5ad"), "--model", str(tmp_path / "absent"), "--output"]
    assert cli.main([*command, str(tmp_path / "out.h5ad")]) == 1
    assert capsys.readouterr().err.startswith("scmmgpt: `model` is '")
    with pytest.raises(SystemExit):  # found before anything is computed
        cli.main([*command, str(tmp_path / "absent" / "out.h5ad")])
    assert "there is no folder" in capsys.readouterr().err


def test_help_imports_nothing_that_a_task_needs(tmp_path):
    code = """
import sys
from scmmgpt import cli
for words in ([], ["demo"], ["pretrain"], ["annotate"], ["generate"]):
    try:
        cli.main([*words, "--help"])
    except SystemExit as end:
        assert end.code == 0
heavy = {"scanpy", "anndata", "sklearn", "matplotlib", "umap", "pandas", "cellxgene_ontology_guide"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for option in ("--label-key", "--min-score", "--guidance-scale"):
        assert option in done.stdout
