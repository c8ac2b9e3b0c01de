"""transformers' own tests of models and configurations, run against scMMGPT.

They ship in the source distribution of transformers, not in the installed package, and are not copied here: the
environment variable TRANSFORMERS_TESTS names an unpacked one, otherwise pip fetches the installed version's, once.
"""

import importlib
import os
import subprocess
import sys
import tarfile
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

import pytest
import torch
import transformers

from scmmgpt import ScMMGPTCellConfig, ScMMGPTCellModel, ScMMGPTConfig, ScMMGPTForConditionalGeneration

from .tiny import CELL_FIELDS, make_batch, make_cell_config, make_cells, make_config

CACHE = Path(__file__).resolve().parents[1] / ".pytest_cache" / "transformers_tests"
PACKAGE = "transformers_own_tests"
# What the tests import but the source distribution leaves out, as empty stand-ins. A git checkout has the first two.
ABSENT = {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},
}
RANDOM_LOSSES = ("description_", "condition_")  # inputs of the losses that draw noise or negatives in each pass


def _download(release: str) -> Path:
    """The folder `tests` of a transformers release: from the cache, or from pip."""
    folder = CACHE / release
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            command = [sys.executable, "-m", "pip", "download", f"transformers=={release}", "--no-deps"]
            command += ["--no-binary", ":all:", "--no-build-isolation", "--quiet", "--dest", scratch]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            (archive,) = Path(scratch).glob("*.tar.gz")
            with tarfile.open(archive) as tar:
                tests = [member for member in tar.getmembers() if "/tests/" in member.name]
                tar.extractall(scratch, members=tests, filter="data")
            try:
                next(Path(scratch).glob("*/tests")).rename(folder)
            except OSError:
                if not folder.is_dir():  # or the other worker was faster
                    raise
    return folder


def _find_tests() -> Path:
    given = os.environ.get("TRANSFORMERS_TESTS")
    if given is not None:
        return Path(given) / "tests"
    try:
        return _download(transformers.__version__)
    except (OSError, subprocess.SubprocessError) as error:
        if os.environ.get("CI"):  # where a skip would go unseen
            raise
        reason = f"no tests of transformers {transformers.__version__}: pip could not fetch its source ({error}). "
        pytest.skip(reason + "Set TRANSFORMERS_TESTS to a folder that has it unpacked.", allow_module_level=True)


def _import(tests: Path, name: str) -> types.ModuleType:
    """A module of the folder `tests`, as part of a package whose name collides with nothing."""
    if PACKAGE not in sys.modules:
        sys.modules[PACKAGE] = types.ModuleType(PACKAGE)
        sys.modules[PACKAGE].__path__ = [str(tests)]
        for absent, contents in ABSENT.items():
            if not (tests / absent.replace(".", "/")).with_suffix(".py").is_file():
                module = types.ModuleType(f"{PACKAGE}.{absent}")
                vars(module).update(contents)
                sys.modules[module.__name__] = module
                sys.modules.setdefault(module.__name__.rpartition(".")[0], types.ModuleType("stand-in"))
    with mock.patch("transformers.utils.direct_transformers_import"):  # it would import `tests/__init__.py`, in vain
        return importlib.import_module(f"{PACKAGE}.{name}")


pytest.importorskip("parameterized", reason="transformers' own tests need `pip install parameterized`")
TESTS = _find_tests()
common = _import(TESTS, "test_modeling_common")
ConfigTester = _import(TESTS, "test_configuration_common").ConfigTester
# Several tests look only at the classes of these lists. In the private copy of the lists, ours are among them.
common.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = {"scmmgpt": "ScMMGPTForConditionalGeneration"}
common.MODEL_MAPPING_NAMES = {"scmmgpt_cell": "ScMMGPTCellModel"}


class _Tester:
    """What the mixin asks for a tiny configuration and its inputs."""

    batch_size = (
        7  # where the mixin wants more rows, it invents them, and cannot know how placeholders and cells agree
    )
    is_training = True
    hidden_size = 32
    num_hidden_layers = 2
    num_attention_heads = 4

    def get_config(self) -> ScMMGPTConfig:
        return make_config()

    def prepare_config_and_inputs_for_common(self) -> tuple[ScMMGPTConfig, dict[str, torch.Tensor]]:
        torch.manual_seed(0)
        batch = make_batch(self.batch_size)
        self.seq_length = batch["input_ids"].shape[1]
        return self.get_config(), {name: batch[name] for name in ("input_ids", "attention_mask", *CELL_FIELDS)}


class _CellTester(_Tester):
    is_training = False  # the encoder alone has no loss

    def get_config(self) -> ScMMGPTCellConfig:
        return make_cell_config()

    def prepare_config_and_inputs_for_common(self) -> tuple[ScMMGPTCellConfig, dict[str, torch.Tensor]]:
        cells = make_cells(self.batch_size)
        self.seq_length = cells["cell_gene_ids"].shape[1]
        return self.get_config(), {name: cells[name] for name in CELL_FIELDS}


def _test_config(parent: unittest.TestCase, config: transformers.PreTrainedConfig) -> None:
    fields = config.to_diff_dict().items()
    given = {name: value for name, value in fields if name in vars(type(config)) and not isinstance(value, dict)}
    ConfigTester(parent, config_class=type(config), has_text_modality=False, **given).run_common_tests()


class TestConditionalGeneration(common.ModelTesterMixin, common.GenerationTesterMixin, unittest.TestCase):
    """The whole model."""

    all_model_classes = (ScMMGPTForConditionalGeneration,)
    additional_model_inputs = ["attention_mask", *CELL_FIELDS]
    test_can_init_all_missing_weights_before_2023 = True
    _is_composite = True
    with_random_losses = True

    def setUp(self) -> None:
        self.model_tester = _Tester()

    def _prepare_for_class(self, inputs_dict: dict, model_class: type, return_labels: bool = False) -> dict:
        if not return_labels:
            return super()._prepare_for_class(inputs_dict, model_class)
        torch.manual_seed(0)
        batch = make_batch(self.model_tester.batch_size)
        return {k: v for k, v in batch.items() if self.with_random_losses or not k.startswith(RANDOM_LOSSES)}

    def test_config(self) -> None:
        _test_config(self, make_config())

    def test_model_outputs_equivalence(self) -> None:
        self.with_random_losses = False  # two passes of the same inputs are compared
        super().test_model_outputs_equivalence()

    def test_sdpa_can_dispatch_composite_models(self) -> None:
        """As in the mixin, whose list of names for the towers has no cell encoder."""
        with tempfile.TemporaryDirectory() as folder:
            ScMMGPTForConditionalGeneration(make_config()).save_pretrained(folder)
            for asked, expected in ((None, "sdpa"), ("sdpa", "sdpa"), ("eager", "eager")):
                model = ScMMGPTForConditionalGeneration.from_pretrained(folder, attn_implementation=asked)
                parts = [module for module in model.modules() if isinstance(module, transformers.PreTrainedModel)]
                assert len(parts) == 6  # with cell encoder, two Q-Formers, language model and its base
                assert {part.config._attn_implementation for part in parts} == {expected}

    _stay_together = unittest.skip("Only the language model may be split or offloaded; `test_saving.py` shows how.")
    test_cpu_offload = test_disk_offload_bin = test_disk_offload_safetensors = test_model_parallelism = _stay_together(
        lambda self: None
    )

    @unittest.skip("There is no base model with a head on top: the parts are peers.")
    def test_model_base_model_prefix(self) -> None: ...

    @unittest.skip(
        "A gene vocabulary has no default id of <pad>: a configuration without it is refused, with the cure."
    )
    def test_model_forward_default_config_values(self) -> None: ...

    @unittest.skipUnless(
        hasattr(common.GenerationTesterMixin, "test_greedy_generate"), "not in the source distribution"
    )
    def test_generation_tester_mixin_inheritance(self) -> None:
        super().test_generation_tester_mixin_inheritance()


class TestCellModel(common.ModelTesterMixin, unittest.TestCase):
    """The cell encoder alone."""

    all_model_classes = (ScMMGPTCellModel,)
    additional_model_inputs = list(CELL_FIELDS)
    test_can_init_all_missing_weights_before_2023 = True
    test_resize_embeddings = False  # genes are never added to a trained model: their ids would have no weights

    def setUp(self) -> None:
        self.model_tester = _CellTester()

    def test_config(self) -> None:
        _test_config(self, make_cell_config())

    @unittest.skip("As for the whole model.")
    def test_model_forward_default_config_values(self) -> None: ...
