"""The wheel holds every module and nothing else, the core needs three dependencies."""

import ast
import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CORE_MODULES = ("numpy", "torch", "transformers")
# Import names of what the extras bring in: none may be needed by `import scmmgpt`.
EXTRA_MODULES = (
    "accelerate",
    "anndata",
    "cellxgene_ontology_guide",
    "datasets",
    "h5py",
    "jinja2",
    "matplotlib",
    "pandas",
    "peft",
    "pyarrow",
    "scanpy",
    "scipy",
    "sklearn",
    "trl",
    "umap",
)

# Runs in an interpreter that must see the unpacked wheel and never the editable install.
PRELUDE = """
import importlib, json, sys
from importlib.machinery import PathFinder
target, blocked = sys.argv[1], frozenset(json.loads(sys.argv[2]))

class PathsWithout(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name.partition(".")[0] not in blocked:
            return super().find_spec(name, path, target)

others = [f for f in sys.meta_path if f is not PathFinder and "editable" not in repr(f)]
sys.meta_path = [*others, PathsWithout]
sys.path.insert(0, target)
"""


def _run(code: str, target: Path, blocked: str, cwd: Path) -> str:
    command = [sys.executable, "-I", "-c", PRELUDE + code, str(target), blocked]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packages(repository: Path) -> list[str]:
    settings = tomllib.loads((repository / "pyproject.toml").read_text())
    return settings["tool"]["setuptools"]["packages"]


@pytest.fixture(scope="module")
def wheel(repository: Path, packages: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy, so that the working tree gets no build folder."""
    source = tmp_path_factory.mktemp("source")
    for file in repository.iterdir():
        if file.is_file():
            shutil.copy(file, source)
    for folder in {name.split(".")[1] for name in packages if "." in name} | {"tests"}:
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repository / folder, source / folder, ignore=ignore)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return next((source / "dist").glob("scmmgpt-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    done = subprocess.run([*command, "--target", target, wheel], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return target


def _modules(repository: Path, packages: list[str]) -> list[str]:
    modules = []
    for package in packages:
        folder = repository.joinpath(*package.split(".")[1:])
        names = sorted(file.stem for file in folder.glob("*.py"))
        modules += [package if name == "__init__" else f"{package}.{name}" for name in names]
    return [name for name in modules if not name.endswith("__main__")]


def test_wheel_holds_the_packages_and_their_data_only(wheel: Path, repository: Path, packages):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"scmmgpt/py.typed", "scmmgpt/model_card.md"} <= names
    assert "scmmgpt/evaluation/templates/report.html" in names
    for recipe in (repository / "train" / "recipes").glob("*.yaml"):
        assert f"scmmgpt/train/recipes/{recipe.name}" in names
    python = {name for name in names if name.endswith(".py")}
    folders = {str(Path(name).parent).replace("/", ".") for name in python}
    assert folders == set(packages)
    for package in packages:
        folder = repository.joinpath(*package.split(".")[1:])
        for file in folder.glob("*.py"):
            assert f"{package.replace('.', '/')}/{file.name}" in python


def test_every_folder_with_an_init_is_a_listed_package(repository: Path, packages):
    roots = [repository / name.split(".")[1] for name in packages if "." in name]
    found = {
        "scmmgpt." + str(file.parent.relative_to(repository)).replace("/", ".")
        for root in roots
        for file in root.rglob("__init__.py")
    }
    assert found == set(packages) - {"scmmgpt"}


def test_every_module_of_the_wheel_imports(installed: Path, repository, packages, tmp_path):
    code = f"""
for name in {_modules(repository, packages)!r}:
    module = importlib.import_module(name)
    assert module.__file__.startswith(target), (name, module.__file__)
"""
    _run(code, installed, "[]", tmp_path)


def test_import_needs_only_the_core_dependencies(installed: Path, tmp_path):
    code = """
import scmmgpt
scmmgpt.ScMMGPTForConditionalGeneration, scmmgpt.ScMMGPTProcessor, scmmgpt.ScMMGPTConfig
import torch
assert not torch.cuda.is_initialized()
assert not [name for name in sys.modules if name.startswith(("flash_attn", "triton.backends"))]
"""
    _run(code, installed, json.dumps([*EXTRA_MODULES, "flash_attn"]), tmp_path)


@pytest.mark.parametrize("file", sorted(REPOSITORY.glob("*_scmmgpt.py")), ids=lambda file: file.name)
def test_remote_code_files_import_the_core_and_their_siblings_only(file: Path):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            roots = [alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            roots = [node.module.partition(".")[0]]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 1, ast.unparse(node)
            assert (node.module or "").endswith("_scmmgpt"), ast.unparse(node)
            roots = []
        else:
            continue
        for root in roots:
            assert root in CORE_MODULES or root in sys.stdlib_module_names, ast.unparse(node)
