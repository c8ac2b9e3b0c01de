"""Pre-training from a recipe: `scmmgpt pretrain recipe.yaml`, or `python -m scmmgpt.train.pretrain recipe.yaml`.

Reads top to bottom: cells and facts, processor, model, then the stages one after another. A stage that has finished
leaves a complete model repository, so that `--resume` goes on from the last one, and inside a stage from its last
checkpoint. In one process on one device.
"""

import json
import os
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase, TrainingArguments, set_seed
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..configuration_scmmgpt import ScMMGPTConfig
from ..data import CaptionWriter, CellFacts, CellStream, Ontology, train_tokenizer
from ..data.collator import ScMMGPTDataCollator
from ..data.definitions import read_descriptions
from ..data.markers import MarkerTable
from ..model_card import render_model_card
from ..modeling_scmmgpt import ScMMGPTForConditionalGeneration
from ..processing_scmmgpt import ScMMGPTProcessor
from .cells import TrainingCells, open_cells
from .recipe import DEFAULT_VOCAB_SIZE, FIXED_ARGUMENTS, Recipe, StageRecipe, TextRecipe, WordsRecipe
from .record import record_run
from .trainer import EpochCallback, ModelCardCallback, ScMMGPTTrainer, StreamCallback, check_modules

if TYPE_CHECKING:
    from anndata import AnnData

# Enough cells to know the mean and spread of every latent number to a percent.
STATISTICS_CELLS = 20_000
CAPTIONS_PER_FACTS = 20


def pretrain(recipe: Recipe, sources: "Sequence[AnnData] | None" = None, resume: bool = False) -> Path:
    """
    Runs every stage of a recipe.

    Args:
        recipe (`Recipe`): what to do.
        sources (`Sequence[AnnData]`, *optional*): the training cells, raw counts in `X`; read from
            `recipe.data.sources` when absent.
        resume (`bool`): go on with what `recipe.output_dir` holds, rather than refuse to overwrite it.

    Returns:
        `Path`: the folder of the final model, a complete model repository.

    Raises:
        ValueError: when the output folder holds a run already and `resume` is not set, or holds a run of another
            recipe or of other cells; when the cells are unusable; or in a process that is one of several or sees
            several GPUs.
    """
    output_dir = Path(recipe.output_dir)
    if not resume and (output_dir / "stages").exists():
        raise ValueError(
            f"`output_dir`: {output_dir} holds a training run already. Pass --resume to go on with it, or choose "
            "another folder."
        )
    for stage in recipe.stages:
        training_arguments(stage, output_dir, recipe.seed)  # an impossible setting is found before hours of training
    set_seed(recipe.seed)
    ontology = Ontology()
    writer = build_writer(recipe.words, ontology)
    cells = open_cells(recipe.data, ontology, recipe.seed, sources)
    processor = build_processor(recipe, cells, writer)
    model = build_model(recipe, processor, cells.profile, cells.typical_value)
    for stage in recipe.stages:
        check_modules(model, stage.modules)  # not after the stages before it
    record_run(recipe, processor, cells.hashes)
    card = training_card(recipe, model, processor, cells)
    for index, stage in enumerate(recipe.stages):
        stage_dir = output_dir / "stages" / f"{index}-{stage.name}"
        if (stage_dir / "model").exists():
            # Into the memory of the model that was built: sums over memory as a file maps it may round otherwise.
            finished = ScMMGPTForConditionalGeneration.from_pretrained(stage_dir / "model")
            model.load_state_dict(finished.state_dict())
            continue
        collator = ScMMGPTDataCollator(processor, writer, cells.profile, losses=tuple(stage.losses), **stage.collator)
        if "flow" in stage.losses:
            set_flow_statistics(model, cells, collator)
        run_stage(stage, model, processor, cells, collator, stage_dir, recipe.seed, card)
        save_repository(model, processor, stage_dir / "model", card)
    save_repository(model, processor, output_dir / "model", card)
    return output_dir / "model"


def build_writer(recipe: WordsRecipe, ontology: Ontology) -> CaptionWriter:
    """The writer of all texts, with the tables that the recipe names."""
    return CaptionWriter(
        ontology,
        recipe.wording,
        descriptions=read_descriptions(recipe.descriptions, ontology),
        markers=MarkerTable.read(recipe.markers, ontology) if recipe.markers else None,
    )


def build_processor(recipe: Recipe, cells: TrainingCells, writer: CaptionWriter) -> ScMMGPTProcessor:
    """The gene vocabulary of the cells and the tokenizer of the text model, in one processor."""
    symbols = [gene for gene in cells.extractor.vocab if not gene.startswith("<")]
    tasks = {task for stage in recipe.stages for task in stage.collator.get("tasks", ())}
    tokenizer = build_tokenizer(recipe.text, cells.facts, symbols, writer, recipe.seed, sorted(tasks))
    num_cell_tokens = recipe.model.get("num_cell_tokens", ScMMGPTConfig.num_cell_tokens)
    return ScMMGPTProcessor(cells.extractor, tokenizer, num_cell_tokens=num_cell_tokens)


def build_tokenizer(
    recipe: TextRecipe,
    facts: Sequence[CellFacts],
    symbols: Sequence[str],
    writer: CaptionWriter,
    seed: int,
    tasks: Sequence[str] = (),
) -> PreTrainedTokenizerBase:
    """
    The pretrained model's tokenizer with a `<cell>` token, or one trained on captions, the Cell Ontology and what is
    said in further `tasks`.
    """
    if recipe.pretrained is not None:
        # Left, or prompts of unequal length would be continued after padding; as an argument, or it is not saved.
        tokenizer = AutoTokenizer.from_pretrained(recipe.pretrained, padding_side="left")
        tokenizer.add_special_tokens({"additional_special_tokens": ["<cell>"]}, replace_extra_special_tokens=False)
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer
    rng = np.random.default_rng(seed)
    texts = [*writer.ontology.definitions("CL"), *writer.definitions.texts()]
    distinct = sorted(facts, key=repr)
    for fact in distinct:
        for _ in range(CAPTIONS_PER_FACTS):
            genes = rng.choice(symbols, size=min(5, len(symbols)), replace=False)
            texts += [writer.condition(fact, rng), writer.describe(fact, rng, top_genes=list(genes))]
            for task in (task for task in tasks if task not in ("annotate", "describe")):
                texts += writer.conversation(fact, rng, tasks={task: 1.0}, others=distinct)
    longest = recipe.config.get("max_position_embeddings", 2048)
    return train_tokenizer(texts, recipe.vocab_size or DEFAULT_VOCAB_SIZE, model_max_length=longest)


def build_model(
    recipe: Recipe, processor: ScMMGPTProcessor, profile: np.ndarray, typical_value: float
) -> ScMMGPTForConditionalGeneration:
    """
    The model of a recipe with its vocabularies filled in. The heads start from what is typical, so that training
    spends no time on learning it.

    Args:
        recipe (`Recipe`): sizes, and the text model.
        processor (`ScMMGPTProcessor`): vocabularies.
        profile (`np.ndarray` of shape `(V,)`): typical transcriptome; see [`mean_profile`].
        typical_value (`float`): mean encoded expression of a token.
    """
    extractor, tokenizer = processor.feature_extractor, processor.tokenizer
    text_model, text_config = None, {"model_type": "llama"} | recipe.text.config
    if recipe.text.pretrained is not None:
        # Weights are trained in float32 whatever they were saved in; `bf16: true` in the arguments saves memory.
        text_model = AutoModelForCausalLM.from_pretrained(recipe.text.pretrained, dtype=torch.float32)
        text_model.resize_token_embeddings(max(len(tokenizer), text_model.config.vocab_size))
        text_config = text_model.config
    else:
        special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        text_config = text_config | special | {"vocab_size": len(tokenizer)}
    cell_config = recipe.model.get("cell_config", {}) | {
        "vocab_size": len(extractor.vocab),
        "pad_token_id": extractor.pad_token_id,
        "cls_token_id": extractor.cls_token_id,
    }
    config = ScMMGPTConfig(
        **recipe.model | {"cell_config": cell_config},
        text_config=text_config,
        cell_token_id=processor.cell_token_id,
    )
    model = ScMMGPTForConditionalGeneration(config)
    if text_model is not None:
        model.language_model.load_state_dict(text_model.state_dict())
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(tokenizer, name))
    shares = torch.tensor(profile, dtype=torch.float32)
    model.cell_model.gene_profile.copy_(shares)
    with torch.no_grad():
        model.expression_head.gene_bias.copy_(shares.clamp(min=1e-12).log())
        model.value_head.fc3.bias.fill_(typical_value)
    return model


@torch.no_grad()
def set_flow_statistics(
    model: ScMMGPTForConditionalGeneration, cells: TrainingCells, collator: ScMMGPTDataCollator
) -> None:
    """Mean and spread of what the flow will draw, from a sample of training cells with their whole panels."""
    plain = ScMMGPTDataCollator(
        collator.processor, collator.writer, collator.profile, losses=("cell_reconstruction",), panel_dropout=0.0
    )
    training = model.training
    model.eval()
    targets = []
    for batch in tqdm(cells.sample(plain, STATISTICS_CELLS), desc="flow statistics", leave=False):
        batch = {name: value.to(model.device) for name, value in batch.items()}
        latents = model(**batch).cell_latents
        panel_mask = model.panel_mask(batch["panel_gene_ids"], batch["cell_panel_index"])
        targets.append(model.flow_target(latents, batch["target_counts"], panel_mask))
    model.train(training)
    targets = torch.cat(targets).cpu().double()  # Apple's devices have no float64
    model.cell_generator.target_mean.copy_(targets.mean(0).float())
    model.cell_generator.target_std.copy_(targets.std(0, correction=0).clamp(min=1e-3).float())


def training_arguments(stage: StageRecipe, stage_dir: Path, seed: int) -> TrainingArguments:
    """The stage's settings with our defaults; refuses to be one of several processes, or to see several GPUs."""
    options = {"save_strategy": "no", "logging_steps": 10, "report_to": [], "seed": seed} | stage.arguments
    arguments = TrainingArguments(output_dir=str(stage_dir), **FIXED_ARGUMENTS, **options)
    if arguments.n_gpu > 1 or arguments.world_size > 1:
        raise ValueError(
            f"Training found {arguments.n_gpu} GPUs and {arguments.world_size} process(es); it runs in one process on "
            "one GPU so far. Set CUDA_VISIBLE_DEVICES=0 and start it without torchrun or accelerate launch."
        )
    return arguments


def run_stage(
    stage: StageRecipe,
    model: ScMMGPTForConditionalGeneration,
    processor: ScMMGPTProcessor,
    cells: TrainingCells,
    collator: ScMMGPTDataCollator,
    stage_dir: Path,
    seed: int,
    card: str,
) -> None:
    """Trains one stage in place, from its last checkpoint if there is one, and writes its loss curve."""
    checkpoint = last_checkpoint(stage_dir)
    arguments, training_set = training_arguments(stage, stage_dir, seed), cells.training_set(collator)
    is_streamed = isinstance(training_set, CellStream)
    arguments.ignore_data_skip = is_streamed  # a stream knows its place
    trainer = ScMMGPTTrainer(
        model=model,
        args=arguments,
        train_dataset=training_set,
        data_collator=collator,
        processing_class=processor,
        loss_weights=stage.losses,
        modules=stage.modules,
        # The card comes last: it says that a checkpoint is complete.
        callbacks=[StreamCallback(checkpoint) if is_streamed else EpochCallback(), ModelCardCallback(card)],
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    # accelerate leaves its autocast on the instance; with it the next stage would not run as after a resumption.
    for name in ("forward", "_original_forward", "_is_accelerate_prepared"):
        vars(model).pop(name, None)
    model.requires_grad_(True)
    model.eval()
    history = [entry | {"stage": stage.name} for entry in trainer.state.log_history]
    (stage_dir / "losses.json").write_text(json.dumps(history, indent=1), encoding="utf-8")


def last_checkpoint(stage_dir: Path) -> str | None:
    """The newest checkpoint that was written to its end; its model card comes last."""
    complete = [path.parent for path in stage_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*/README.md")]
    return str(max(complete, key=lambda path: int(path.name.rpartition("-")[2]))) if complete else None


def model_facts(
    recipe: Recipe, model: ScMMGPTForConditionalGeneration, processor: ScMMGPTProcessor
) -> dict[str, str | int]:
    """What model cards say of a model itself; see [`render_model_card`]."""
    origin = "trained from scratch" if recipe.text.pretrained is None else f"from {recipe.text.pretrained}"
    return {
        "name": f"scMMGPT {recipe.name}",
        "num_parameters": model.num_parameters(),
        "text_model": f"{model.config.text_config.model_type}, {origin}",
        "num_genes": len(processor.feature_extractor.gene_token_ids),
    }


def training_card(
    recipe: Recipe,
    model: ScMMGPTForConditionalGeneration,
    processor: ScMMGPTProcessor,
    cells: TrainingCells,
) -> str:
    """The model card of a checkpoint: what it is trained on and how; nothing has been measured yet."""
    return render_model_card(
        {
            "model": model_facts(recipe, model, processor),
            "data": {
                "name": ", ".join(Path(source).name for source in recipe.data.sources),
                "num_train": cells.num_cells,
                "num_genes": len(processor.feature_extractor.gene_token_ids),
                "types": sorted({fact.cell_type for fact in cells.facts if fact.cell_type}),
            },
            "run": {"seed": recipe.seed, "versions": {name: version(name) for name in ("torch", "transformers")}},
        }
    )


def save_repository(
    model: ScMMGPTForConditionalGeneration, processor: ScMMGPTProcessor, folder: Path, card: str
) -> None:
    """Writes a complete model repository: all of it, or nothing where it is not yet."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    processor.save_pretrained(partial)
    (partial / "README.md").write_text(card, encoding="utf-8")
    if folder.exists():
        shutil.rmtree(folder)
    os.replace(partial, folder)


if __name__ == "__main__":
    from ..cli import main

    sys.exit(main(["pretrain", *sys.argv[1:]]))
