"""A saved folder on a machine without this package: `trust_remote_code=True` alone, and folders that are broken."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import AutoFeatureExtractor, AutoModel, AutoProcessor

from scmmgpt import ScMMGPTForConditionalGeneration

from .tiny import CELL_FIELDS, GENES, make_batch, make_counts, make_model, make_processor

CODE = {
    "configuration_scmmgpt.py",
    "encoding_scmmgpt.py",
    "feature_extraction_scmmgpt.py",
    "generation_scmmgpt.py",
    "genes_scmmgpt.py",
    "modeling_scmmgpt.py",
    "processing_scmmgpt.py",
}
# Runs in an interpreter in which the package cannot be imported, installed or not.
PRELUDE = """
import sys

class NoPackage:
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "scmmgpt":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoPackage)
try:
    import scmmgpt
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("scmmgpt is importable")

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoProcessor

torch.set_num_threads(1)
folder, out = sys.argv[1:]
remote = {"trust_remote_code": True}
"""
# Also run here, with the package: the same lines must give the same numbers.
ANSWERS = """
data = np.load(out + "/cells.npz")
texts = ["<cell> describe the cell :", "<cell> the type of <cell> is"]
inputs = processor(text=texts, cells=data["counts"], gene_names=list(data["genes"]))
prompts = processor(text=["a naive T cell", "a B cell of lung"])
found = {name: value for name, value in inputs.items()}
with torch.no_grad():
    found["logits"] = model(**inputs).logits
found["text"] = model.generate(**inputs, max_new_tokens=6, do_sample=False)
torch.manual_seed(0)
found["sampled"] = model.generate(**inputs, max_new_tokens=6, do_sample=True)
cells = model.generate(
    **prompts, generation_mode="cell", num_return_sequences=3, generator=torch.Generator().manual_seed(0)
)
named = processor.post_process_cells(cells)
found |= {name: np.asarray(value) for name, value in named.items()}
found |= {"latents": cells.latents, "decoded": np.asarray(processor.batch_decode(found["text"]))}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model repository, saved with the package."""
    folder = tmp_path_factory.mktemp("saved")
    make_model().save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


def run(code: str, folder: Path, out: Path) -> str:
    """Runs `PRELUDE` and `code` isolated, with a module cache of its own inside `out`."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"HF_MODULES_CACHE": str(out / "modules"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-I", "-c", PRELUDE + code, str(folder), str(out)]
    done = subprocess.run(command, cwd=out, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers_without_the_package(folder: Path, out: Path) -> dict[str, np.ndarray]:
    np.savez(out / "cells.npz", counts=make_counts(3), genes=np.array(GENES))
    load = "model = AutoModel.from_pretrained(folder, **remote)\n"
    load += "processor = AutoProcessor.from_pretrained(folder, **remote)\n"
    run(load + ANSWERS + "np.savez(out + '/found.npz', **found)\n", folder, out)
    return dict(np.load(out / "found.npz"))


def answers_with_the_package(folder: Path, out: Path) -> dict[str, np.ndarray]:
    model = ScMMGPTForConditionalGeneration.from_pretrained(folder)
    scope = {"np": np, "torch": torch, "out": str(out), "model": model, "processor": make_processor()}
    exec(ANSWERS, scope)
    return {name: np.asarray(value) for name, value in scope["found"].items()}


def assert_same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name in ("logits", "latents", "library_size"):  # where weights lie in memory decides the last bits
            np.testing.assert_allclose(found[name], value, atol=1e-5, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_same_tokens_text_and_cells(folder, tmp_path):
    assert {path.name for path in folder.glob("*.py")} == CODE
    assert_same(answers_without_the_package(folder, tmp_path), answers_with_the_package(folder, tmp_path))


def test_every_auto_class(folder, tmp_path):
    code = """
config = AutoConfig.from_pretrained(folder, **remote)
print(type(config).__name__, type(config.cell_config).__name__)
print(type(AutoProcessor.from_pretrained(folder, **remote)).__name__)
print(type(AutoFeatureExtractor.from_pretrained(folder, **remote)).__name__)
for name in ("AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM"):
    model, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True, **remote)
    assert not any(info.values()), info
    print(type(model).__name__, type(model).__module__.partition(".")[0])
model = AutoModel.from_config(config, **remote)
print(type(model).__name__)
"""
    whole = "ScMMGPTForConditionalGeneration transformers_modules"
    assert run(code, folder, tmp_path).splitlines() == [
        "ScMMGPTConfig ScMMGPTCellConfig",
        "ScMMGPTProcessor",
        "ScMMGPTFeatureExtractor",
        whole,
        whole,
        whole,
        "ScMMGPTForConditionalGeneration",
    ]


def test_saved_again_it_keeps_its_code(folder, tmp_path):
    code = """
AutoModel.from_pretrained(folder, **remote).save_pretrained(out + "/again")
AutoProcessor.from_pretrained(folder, **remote).save_pretrained(out + "/again")
"""
    run(code, folder, tmp_path)
    again = tmp_path / "again"
    for name in CODE:
        assert (again / name).read_bytes() == (folder / name).read_bytes()
    for name in ("config.json", "processor_config.json"):
        before, after = (json.loads((place / name).read_text()) for place in (folder, again))
        assert after.get("auto_map") == before.get("auto_map")
    shutil.rmtree(tmp_path / "modules")
    assert_same(answers_without_the_package(again, tmp_path), answers_with_the_package(folder, tmp_path))


@pytest.mark.parametrize("saved_by", ["the package", "remote code"])
def test_cell_encoder_alone(saved_by, folder, tmp_path):
    if saved_by == "the package":
        make_model().cell_model.save_pretrained(tmp_path / "encoder")
    else:
        run(
            "AutoModel.from_pretrained(folder, **remote).cell_model.save_pretrained(out + '/encoder')",
            folder,
            tmp_path,
        )
    code = """
cells = {name: torch.from_numpy(value) for name, value in np.load(out + "/inputs.npz").items()}
model, info = AutoModel.from_pretrained(folder, output_loading_info=True, **remote)
assert not any(info.values()), info
assert type(AutoConfig.from_pretrained(folder, **remote)).__name__ == "ScMMGPTCellConfig"
with torch.no_grad():
    np.save(out + "/state.npy", model.eval()(**cells).pooler_output)
"""
    cells = {name: make_batch()[name] for name in CELL_FIELDS}
    np.savez(tmp_path / "inputs.npz", **cells)
    run(code, tmp_path / "encoder", tmp_path)
    with torch.no_grad():
        expected = make_model().cell_model(**cells).pooler_output
    np.testing.assert_array_equal(np.load(tmp_path / "state.npy"), expected)


def test_trainer_fine_tunes_and_its_checkpoint_loads(folder, tmp_path):
    pytest.importorskip("accelerate")
    code = """
from safetensors.torch import load_file
batch = load_file(out + "/batch.safetensors")
model = AutoModel.from_pretrained(folder, **remote)
before = {name: value.clone() for name, value in model.state_dict().items()}
arguments = transformers.TrainingArguments(
    out + "/run", max_steps=2, save_steps=2, use_cpu=True, remove_unused_columns=False, report_to="none",
    per_device_train_batch_size=1, learning_rate=1e-2, disable_tqdm=True,
)
trainer = transformers.Trainer(
    model, arguments, train_dataset=[0, 0], data_collator=lambda rows: batch,
    processing_class=AutoProcessor.from_pretrained(folder, **remote),
)
trainer.train()
loaded = AutoModel.from_pretrained(out + "/run/checkpoint-2", **remote)
AutoProcessor.from_pretrained(out + "/run/checkpoint-2", **remote)
after = loaded.state_dict()
assert all(torch.equal(value.cpu(), after[name]) for name, value in model.state_dict().items())
print(sum(not torch.equal(value, after[name]) for name, value in before.items()), len(before))
"""
    batch = {name: value.contiguous() for name, value in make_batch().items()}
    save_file(batch, tmp_path / "batch.safetensors")
    changed, total = map(int, run(code, folder, tmp_path).split()[-2:])
    assert changed > 0.9 * total
    assert {path.name for path in (tmp_path / "run" / "checkpoint-2").glob("*.py")} == CODE


# --- broken folders


def _edit(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _reshape(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["value_head.fc1.weight"] = torch.zeros(32, 31)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


# case: what is done to the folder, who loads it, the error, a part of its message
BROKEN = {
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        AutoModel,
        OSError,
        r"no file named model\.safetensors",
    ),
    "half of the weights file": (
        lambda folder: _truncate(folder / "model.safetensors"),
        AutoModel,
        SafetensorError,
        "incomplete|not fully covered",
    ),
    "a tensor of another shape": (_reshape, AutoModel, RuntimeError, "value_head.fc1.weight"),
    "no configuration": (
        lambda folder: (folder / "config.json").unlink(),
        AutoModel,
        (OSError, ValueError),
        "config.json|Unrecognized model",
    ),
    "half of the configuration": (
        lambda folder: _truncate(folder / "config.json"),
        AutoModel,
        OSError,
        "not a valid JSON file",
    ),
    "a text model that nobody has": (
        lambda folder: _edit(folder / "config.json", lambda c: c["text_config"].update(model_type="no_such_model")),
        AutoModel,
        ValueError,
        "`text_config.model_type`='no_such_model' is not an architecture",
    ),
    "a gene vocabulary of another size": (
        lambda folder: _edit(folder / "config.json", lambda c: c["cell_config"].update(vocab_size=80)),
        AutoModel,
        RuntimeError,
        "gene_embeddings.weight",
    ),
    "no processor": (
        lambda folder: (folder / "processor_config.json").unlink(),
        AutoProcessor,
        (OSError, ValueError),
        "processor",
    ),
    "no gene vocabulary": (
        lambda folder: _edit(folder / "processor_config.json", lambda c: c["feature_extractor"].pop("vocab")),
        AutoProcessor,
        ValueError,
        "`vocab` must be a list of gene tokens",
    ),
    "no feature extractor": (
        lambda folder: (folder / "processor_config.json").unlink(),
        AutoFeatureExtractor,
        OSError,
        "preprocessor_config.json",
    ),
    "no tokenizer": (
        lambda folder: [path.unlink() for path in folder.glob("tokenizer*")],
        AutoProcessor,
        (OSError, ValueError),
        "tokenizer",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_says_what_is_wrong(case, folder, tmp_path, caplog):
    damage, loader, error, message = BROKEN[case]
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    damage(broken)
    with pytest.raises(error) as raised:
        loader.from_pretrained(broken)
    # of shapes that differ, transformers logs a table and refers to it
    assert re.search(message, f"{raised.value} {caplog.text}")


def test_a_missing_tensor_is_reported_by_name(folder, tmp_path):
    """transformers starts such a weight anew and says so; whoever must know reads `output_loading_info`."""
    broken = Path(shutil.copytree(folder, tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    del weights["value_head.fc1.weight"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    _, info = AutoModel.from_pretrained(broken, output_loading_info=True)
    assert info["missing_keys"] == {"value_head.fc1.weight"}
