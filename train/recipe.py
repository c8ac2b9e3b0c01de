"""What a training run is told: a YAML file read into dataclasses, every unknown or impossible key an error.

Architecture goes to the model's configuration and the rest stays here. Must not import the model.
"""

from collections.abc import Iterable
from dataclasses import MISSING, dataclass, field, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any

import yaml
from transformers import CONFIG_MAPPING, Blip2QFormerConfig, TrainingArguments

from ..configuration_scmmgpt import ScMMGPTCellConfig, ScMMGPTConfig
from ..data.captions import check_tasks
from ..data.collator import LOSSES, ScMMGPTDataCollator
from ..data.shards import is_corpus
from ..data.templates import WORDINGS

# What training decides itself, so that a recipe cannot.
_FIXED_COLLATOR_OPTIONS = ("processor", "writer", "profile", "losses")
FIXED_ARGUMENTS = {"remove_unused_columns": False}
# Training sees no held-out cells, so these settings of `TrainingArguments` would be ignored.
_EVALUATION_ARGUMENTS = (
    "do_predict",
    "greater_is_better",
    "include_for_metrics",
    "label_names",
    "load_best_model_at_end",
    "metric_for_best_model",
    "prediction_loss_only",
)
DEFAULT_VOCAB_SIZE = 4096


@dataclass
class DataRecipe:
    """
    Where the cells come from and how they become tokens.

    Args:
        sources (`list[str]`): `.h5ad` files of raw counts, corpora of `scmmgpt data build`, or `demo` for the 700
            blood cells that scanpy ships. Files beside a corpus stay on disk and take its gene vocabulary.
        layer (`str`, *optional*): layer of the files that holds the counts, or `raw` for `adata.raw`; else `X`.
        label_key (`str`): column of `obs` that holds the cell type.
        max_genes (`int`): gene tokens per cell at most, `<cls>` included; the highest expressed stay.
        value_encoding (`str`): `log1p` or `binned` (scGPT).
        max_tokens_per_batch (`int`, *optional*): streams the cells in batches of like length, each of at most so many
            gene tokens, padding included; needed for a corpus. Batches of `per_device_train_batch_size` cells from
            memory when absent.
        sampling (`dict`): how often which cells come in a stream; see [`sampling_weights`].
    """

    sources: list[str]
    layer: str | None = None
    label_key: str = "cell_type"
    max_genes: int = 1200
    value_encoding: str = "log1p"
    max_tokens_per_batch: int | None = None
    sampling: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sampling and self.max_tokens_per_batch is None:
            raise ValueError("`data.sampling` weighs the cells of a stream. Set max_tokens_per_batch too, or drop it.")
        if self.max_tokens_per_batch is None and any(map(is_corpus, self.sources)):
            raise ValueError(
                "`data.sources` names a corpus, which is streamed in batches of a size in tokens. Set "
                "max_tokens_per_batch, such as 32 times the tokens of a cell."
            )


@dataclass
class TextRecipe:
    """
    The text model.

    Args:
        pretrained (`str`, *optional*): folder or Hub id of a causal language model; from scratch when absent.
        vocab_size (`int`, *optional*): size of the tokenizer trained on captions and ontology, 4,096 when absent; from
            scratch only.
        config (`dict`): the text model's configuration, from scratch only.
    """

    pretrained: str | None = None
    vocab_size: int | None = None
    config: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ignored = [name for name in ("vocab_size", "config") if getattr(self, name)]
        if self.pretrained is not None and ignored:
            raise ValueError(
                f"`text` sets {ignored} beside pretrained: {self.pretrained!r}, which brings its own. Drop one or the "
                "other."
            )
        _check_known("text.config", self.config, self.config)
        config = {name: value for name, value in self.config.items() if name != "model_type"}
        model_type = self.config.get("model_type", "llama")
        if model_type in CONFIG_MAPPING:  # else the model's configuration says what is wrong
            _check_config("text.config", config, CONFIG_MAPPING[model_type])


@dataclass
class WordsRecipe:
    """
    What texts are made of.

    Args:
        wording (`str`): `plain`, few forms, which a small model learns in minutes; or `varied`, which adds
            paraphrases, requests and alternative names.
        descriptions (`list[str]`): CSV tables of longer descriptions of cell types; see [`read_descriptions`].
        markers (`list[str]`): CSV tables of marker genes; see [`MarkerTable.read`].
    """

    wording: str = "plain"
    descriptions: list[str] = field(default_factory=list)
    markers: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.wording not in WORDINGS:
            raise ValueError(f"`words.wording` is {self.wording!r}, expected one of {sorted(WORDINGS)}.")
        for name in ("descriptions", "markers"):
            paths = getattr(self, name)
            if not isinstance(paths, list):
                raise ValueError(f"`words.{name}` is {paths!r}; expected a list of paths.")
            missing = [path for path in paths if not Path(path).is_file()]
            if missing:
                raise ValueError(f"`words.{name}` names {missing}, which are no files; give the paths of CSV tables.")


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
        where = f"of stage {self.name!r}"
        if not isinstance(self.losses, dict) or not self.losses:
            raise ValueError(f"`losses` {where} is {self.losses!r}; expected a weight for each of some losses.")
        _check_known(f"losses {where}", self.losses, LOSSES)
        for name, weight in self.losses.items():
            if not isinstance(weight, Real) or weight < 0:
                raise ValueError(f"`losses` {where} gives {name} the weight {weight!r}; expected a number, 0 or more.")
        if not isinstance(self.modules, list) or not self.modules:
            raise ValueError(f"`modules` {where} is {self.modules!r}; expected a list of parts of the model.")
        options = {entry.name for entry in fields(ScMMGPTDataCollator) if entry.init} - set(_FIXED_COLLATOR_OPTIONS)
        _check_known(f"collator {where}", self.collator, options)
        if "tasks" in self.collator:
            check_tasks(self.collator["tasks"])
        options = {entry.name for entry in fields(TrainingArguments)}
        evaluation = {name for name in options if "eval" in name} | set(_EVALUATION_ARGUMENTS)
        if evaluation & set(self.arguments):
            raise ValueError(
                f"`arguments` {where} sets {sorted(evaluation & set(self.arguments))}: training measures nothing on "
                "held-out cells. Drop it, and measure the trained model."
            )
        _check_known(f"arguments {where}", self.arguments, options - evaluation - {"output_dir", *FIXED_ARGUMENTS})


@dataclass
class Recipe:
    """
    A whole pre-training run.

    Args:
        output_dir (`str`): receives the stages, their checkpoints and the final model.
        data (`DataRecipe`): the cells.
        text (`TextRecipe`): the text model.
        words (`WordsRecipe`): what texts are made of.
        model (`dict`): fields of [`ScMMGPTConfig`] other than the text model and the vocabularies.
        stages (`list[StageRecipe]`): run in order.
        seed (`int`): of everything that is drawn.
        name (`str`): what model cards call the model; the name of the YAML file when absent there.
    """

    output_dir: str
    data: DataRecipe
    text: TextRecipe
    stages: list[StageRecipe]
    model: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    name: str = "model"
    words: WordsRecipe = field(default_factory=WordsRecipe)

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"`stages` is {names}: expected at least one stage, each with a name of its own.")
        for stage in self.stages if self.data.max_tokens_per_batch is not None else ():
            if "per_device_train_batch_size" in stage.arguments or "max_steps" not in stage.arguments:
                raise ValueError(
                    f"`arguments` of stage {stage.name!r}: a stream has no end, and its batches a size in tokens. Set "
                    "max_steps, and no per_device_train_batch_size, or drop data.max_tokens_per_batch."
                )
        _check_config("model", self.model, ScMMGPTConfig, fixed=("text_config", "cell_token_id"))
        _check_config("model.cell_config", self.model.get("cell_config", {}), ScMMGPTCellConfig)
        for part in ("qformer_config", "text_projector_config"):
            _check_config(f"model.{part}", self.model.get(part, {}), Blip2QFormerConfig)

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
            raise ValueError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
        values = {"name": path.stem} | _checked(cls, values, str(path))
        values["data"] = DataRecipe(**_checked(DataRecipe, values.get("data"), "data"))
        values["text"] = TextRecipe(**_checked(TextRecipe, values.get("text") or {}, "text"))
        values["words"] = WordsRecipe(**_checked(WordsRecipe, values.get("words") or {}, "words"))
        if not isinstance(values["stages"], list):
            raise ValueError(f"`stages` of the recipe is {values['stages']!r}; expected a list of stages.")
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


def _check_known(where: str, values: Any, known: Iterable[str]) -> None:
    """Unknown names, and numbers that YAML reads as text (1e-3 is one), found before hours of training."""
    if not isinstance(values, dict):
        raise ValueError(f"`{where}` is {values!r}; expected a mapping of names to values.")
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise ValueError(f"`{where}` names {unknown}; choose of {', '.join(sorted(known))}.")
    for name, value in values.items():
        if isinstance(value, str) and _is_number(value):
            raise ValueError(f"`{where}`: {name} is the text {value!r}. Write a number, with its point: 1.0e-3.")


def _check_config(where: str, values: Any, config_class: type, fixed: Iterable[str] = ()) -> None:
    """A configuration takes any name without a word, and a slip of the pen would train another model."""
    known = {entry.name for entry in fields(config_class)} | set(config_class.attribute_map)
    _check_known(where, values, known - set(fixed))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


__all__ = ["DataRecipe", "Recipe", "StageRecipe", "TextRecipe", "WordsRecipe"]
