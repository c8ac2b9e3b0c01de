"""What a training run is told: a YAML file read into dataclasses, every unknown or impossible key an error.

Architecture goes to the model's configuration and the rest stays here. Must not import the model.
"""

from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import yaml

from ..data.dataset import LOSSES


@dataclass
class DataRecipe:
    """
    Where the cells come from and how they become tokens.

    Args:
        sources (`list[str]`): `.h5ad` files of raw counts, or `demo` for the 700 blood cells that scanpy ships.
        label_key (`str`): column of `obs` that holds the cell type.
        max_genes (`int`): gene tokens per cell at most, `<cls>` included; the highest expressed stay.
        value_encoding (`str`): `log1p` or `binned` (scGPT).
    """

    sources: list[str]
    label_key: str = "cell_type"
    max_genes: int = 1200
    value_encoding: str = "log1p"


@dataclass
class TextRecipe:
    """
    The text model.

    Args:
        pretrained (`str`, *optional*): folder or Hub id of a causal language model; from scratch when absent.
        vocab_size (`int`): size of the tokenizer trained on captions and ontology, from scratch only.
        config (`dict`): the text model's configuration, from scratch only.
    """

    pretrained: str | None = None
    vocab_size: int = 4096
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class StageRecipe:
    """
    One stage of training.

    Args:
        name (`str`): names the stage's folder and log lines.
        losses (`dict[str, float]`): weight of each loss; those not named are not computed.
        modules (`list[str]`): the model's parts that learn; the others are frozen.
        collator (`dict`): options of [`ScMMGPTDataCollator`].
        arguments (`dict`): options of transformers' `TrainingArguments`.
    """

    name: str
    losses: dict[str, float]
    modules: list[str]
    collator: dict[str, Any] = field(default_factory=dict)
    arguments: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        unknown = sorted(set(self.losses) - set(LOSSES))
        if unknown or not self.losses:
            raise ValueError(
                f"`losses` of stage {self.name!r} names {unknown or 'nothing'}; choose of {', '.join(LOSSES)}."
            )


@dataclass
class Recipe:
    """
    A whole pre-training run.

    Args:
        output_dir (`str`): receives the stages, their checkpoints and the final model.
        data (`DataRecipe`): the cells.
        text (`TextRecipe`): the text model.
        model (`dict`): fields of [`ScMMGPTConfig`] other than the text model and the vocabularies.
        stages (`list[StageRecipe]`): run in order.
        seed (`int`): of everything that is drawn.
    """

    output_dir: str
    data: DataRecipe
    text: TextRecipe
    stages: list[StageRecipe]
    model: dict[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`stages` is {names}: expected at least one stage, each with a name of its own.")

    @classmethod
    def from_yaml(cls, path: str | Path, **changes: Any) -> "Recipe":
        """
        Reads a recipe.

        Args:
            path (`str` or `Path`): a YAML file.
            changes: fields to set instead of what the file says.

        Raises:
            ValueError: when the file is missing, is not YAML, or holds a key that no field has.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"`path`: there is no recipe at {path}. See train/recipes for some to start from.")
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
        values = _checked(cls, values, str(path))
        values["data"] = DataRecipe(**_checked(DataRecipe, values.get("data"), "data"))
        values["text"] = TextRecipe(**_checked(TextRecipe, values.get("text") or {}, "text"))
        values["stages"] = [StageRecipe(**_checked(StageRecipe, stage, "stages")) for stage in values["stages"]]
        return replace(cls(**values), **changes)


def _checked(recipe_class: type, values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f"`{where}` of the recipe is {values!r}; expected a mapping of names to values.")
    known = {entry.name: entry for entry in fields(recipe_class)}
    unknown = sorted(set(values) - set(known))
    required = {name for name, entry in known.items() if entry.default is MISSING and entry.default_factory is MISSING}
    missing = sorted(required - set(values))
    if unknown or missing:
        raise ValueError(
            f"`{where}` of the recipe: unknown keys {unknown}, missing keys {missing}. Known keys: {sorted(known)}."
        )
    return dict(values)


__all__ = ["DataRecipe", "Recipe", "StageRecipe", "TextRecipe"]
