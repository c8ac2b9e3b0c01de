"""What every test shares: one thread per worker, no network, fixed seeds, the real data folder."""

import os

# Before transformers or datasets is imported: a test must never wait for, or depend on, a network.
os.environ["HF_HUB_OFFLINE"] = "1"

import random
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]
# transformers' own tests carry these, and an unknown marker is an error here.
TRANSFORMERS_MARKERS = (
    "accelerate_tests",
    "flash_attn_test",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "order",
    "slow",
    "torch_compile_test",
)


class _RootIsNoTestPackage:
    """Keeps pytest from importing the root `__init__.py` a second time, under the folder's name.

    The git root is the package `scmmgpt`; a second copy would register every Auto class twice.
    """

    @pytest.hookimpl(tryfirst=True)
    def pytest_collect_directory(self, path: Path, parent: pytest.Collector) -> pytest.Dir | None:
        return pytest.Dir.from_parent(parent, path=path) if path == REPOSITORY else None


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(_RootIsNoTestPackage())
    for marker in TRANSFORMERS_MARKERS:
        config.addinivalue_line("markers", f"{marker}: of transformers' own tests")
    # Two workers share two cores; more threads than cores slow both down.
    torch.set_num_threads(1)
    # A slow moment of the machine is no failure.
    hypothesis.settings.register_profile("scmmgpt", deadline=None)
    hypothesis.settings.load_profile("scmmgpt")


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 - libraries under test still draw from the global state
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the working tree."""
    return REPOSITORY


@pytest.fixture(scope="session")
def scmmgpt_data() -> Path:
    """The folder of real studies: `SCMMGPT_DATA`, or `../shared/data` beside the working tree."""
    folder = Path(os.environ.get("SCMMGPT_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no folder {folder}: set SCMMGPT_DATA to one that holds h5ad/ and knowledge/")
    return folder


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator of its own for every test, so that order does not matter."""
    return np.random.default_rng(0)
