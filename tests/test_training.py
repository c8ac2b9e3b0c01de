"""Training: named and weighted losses, frozen parts, restarts that change no bit, recipes that are read strictly."""

import json
import shutil
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    TrainingArguments,
)

from scmmgpt.data import CaptionWriter, CellDataset, CellFacts, Ontology, ScMMGPTDataCollator
from scmmgpt.data.profile import mean_profile
from scmmgpt.train import pretrain as pretraining
from scmmgpt.train.pretrain import last_checkpoint, pretrain, save_repository
from scmmgpt.train.recipe import Recipe
from scmmgpt.train.trainer import ScMMGPTTrainer, freeze_all_but

from .micro import make_adata, make_recipe, write_recipe
from .shards import write_corpus
from .tiny import GENES, make_batch, make_counts, make_model, make_processor

NUM_STEPS, SAVE_STEPS = 7, 3  # five steps are an epoch: the second checkpoint lies in the next
STAGES = ("0-cell", "1-discriminative", "2-generative")


def recipe_with_checkpoints(output_dir: Path) -> Recipe:
    values = make_recipe(output_dir, NUM_STEPS, name="micro")
    for stage in values["stages"]:
        stage["arguments"] |= {"save_strategy": "steps", "save_steps": SAVE_STEPS}
    return read(values, output_dir.parent)


def read(values: dict, folder: Path) -> Recipe:
    folder.mkdir(parents=True, exist_ok=True)
    return Recipe.from_yaml(write_recipe(folder / "recipe.yaml", values))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModel.from_pretrained(folder).state_dict()


def assert_equal(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.equal(value, two[name]), name


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of an undisturbed run, and the weights that it started from."""
    output_dir = tmp_path_factory.mktemp("training") / "run"
    start = {}

    def remember(*arguments):
        model = build_model(*arguments)
        start.update(deepcopy(model.state_dict()))
        return model

    build_model = pretraining.build_model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "build_model", remember)
        final = pretrain(recipe_with_checkpoints(output_dir), [make_adata()])
    assert final == output_dir / "model"
    return output_dir, start


# Losses and stages


def test_every_stage_logs_its_losses_by_name_and_their_weighted_sum(finished):
    recipe = make_recipe(finished[0])
    for place, stage in zip(STAGES, recipe["stages"], strict=True):
        history = json.loads((finished[0] / "stages" / place / "losses.json").read_text())
        assert {entry["stage"] for entry in history} == {stage["name"]}
        steps = [entry for entry in history if "loss" in entry]
        assert [entry["step"] for entry in steps] == list(range(1, NUM_STEPS + 1))
        for entry in steps:
            named = {name.removesuffix("_loss") for name in entry if name.endswith("_loss")}
            assert named == set(stage["losses"])
            total = sum(weight * entry[f"{name}_loss"] for name, weight in stage["losses"].items())
            assert entry["loss"] == pytest.approx(total, abs=1e-4)


def test_only_the_modules_of_a_stage_learn(finished):
    output_dir, before = finished
    for place, stage in zip(STAGES, make_recipe(output_dir)["stages"], strict=True):
        after = weights(output_dir / "stages" / place / "model")
        changed = {name.partition(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
        assert changed == set(stage["modules"]), place
        before = after
    assert_equal(before, weights(output_dir / "model"))


def test_the_heads_start_from_what_is_typical_and_the_flow_from_the_spread_of_its_targets(finished):
    output_dir, start = finished
    assert start["cell_model.gene_profile"].sum() == pytest.approx(1)
    torch.testing.assert_close(
        start["expression_head.gene_bias"].softmax(0), start["cell_model.gene_profile"], rtol=1e-4, atol=1e-6
    )
    final = weights(output_dir / "model")
    # 40 cells of a panel that is the whole vocabulary: the last target is the log of the total counts
    totals = np.log(np.asarray(make_adata().X.sum(1)).ravel())
    assert final["cell_generator.target_mean"][-1].item() == pytest.approx(totals.mean(), abs=1e-4)
    assert final["cell_generator.target_std"][-1].item() == pytest.approx(totals.std(), abs=1e-4)


def make_trainer(tmp_path, loss_weights, modules, model=None, **options) -> ScMMGPTTrainer:
    cells = make_processor().feature_extractor.align(make_counts(8), GENES)
    dataset = CellDataset([cells], [[CellFacts("B cell", "CL:0000236")] * 8])
    arguments = TrainingArguments(
        str(tmp_path),
        report_to=[],
        use_cpu=True,
        remove_unused_columns=False,
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        **options,
    )
    collator = ScMMGPTDataCollator(
        make_processor(), CaptionWriter(Ontology()), mean_profile([cells], 63), ("cell_reconstruction",)
    )
    return ScMMGPTTrainer(
        model=model or make_model(),
        args=arguments,
        train_dataset=dataset,
        data_collator=collator,
        loss_weights=loss_weights,
        modules=modules,
    )


def test_the_loss_is_the_weighted_sum_of_what_the_model_returns(tmp_path):
    trainer = make_trainer(tmp_path, {"language": 2.0, "masked_expression": 0.25}, ["language_model"])
    batch = make_batch()
    torch.manual_seed(3)
    loss, outputs = trainer.compute_loss(trainer.model, batch, return_outputs=True)
    torch.manual_seed(3)
    expected = trainer.model(**batch)
    torch.testing.assert_close(loss, 2.0 * expected.language_loss + 0.25 * expected.masked_expression_loss)
    assert outputs.flow_loss is not None  # computed, and no part of the sum


def test_accumulated_steps_weigh_as_one_batch(tmp_path):
    def train(**options):
        modules = ["expression_head"]
        trainer = make_trainer(tmp_path, {"cell_reconstruction": 1.0}, modules, max_steps=1, **options)
        trainer.train()
        return trainer.state.log_history[0]

    whole = train(per_device_train_batch_size=8)
    parts = train(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    for name in ("loss", "cell_reconstruction_loss", "grad_norm"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4)


def test_frozen_parts_run_without_dropout(tmp_path):
    trainer = make_trainer(tmp_path, {"cell_reconstruction": 1.0}, ["expression_head"])
    trainer.model.train()
    trainer.compute_loss(trainer.model, make_batch())
    training = {name for name, part in trainer.model.named_children() if part.training}
    learning = {
        name for name, part in trainer.model.named_children() if any(p.requires_grad for p in part.parameters())
    }
    assert training == learning == {"expression_head"}


def test_unknown_modules_are_refused_before_any_stage(tmp_path):
    with pytest.raises(ValueError, match=r"`modules` names \['flow'\].*'cell_generator'"):
        freeze_all_but(make_model(), ["flow", "qformer"])
    values = make_recipe(tmp_path / "run", 1)
    values["stages"][-1]["modules"] = ["cell_generater"]
    with pytest.raises(ValueError, match=r"cell_generater.*'cell_generator'"):
        pretrain(read(values, tmp_path), [make_adata()])
    assert not (tmp_path / "run").exists()


# What is written


def test_every_checkpoint_is_a_complete_repository(finished, repository):
    output_dir = finished[0]
    folders = [output_dir / "model", *output_dir.glob("stages/*/model"), *output_dir.glob("stages/*/checkpoint-*")]
    assert len(folders) == 1 + 3 * (1 + len(range(SAVE_STEPS, NUM_STEPS, SAVE_STEPS)) + 1)
    for folder in folders:
        for file in repository.glob("*_scmmgpt.py"):
            assert (folder / file.name).read_text() == file.read_text()
        card = (folder / "README.md").read_text()
        assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "transformers"
        assert "scMMGPT micro" in card
        assert "40 cells of demo" in card
        processor = AutoProcessor.from_pretrained(folder)
        inputs = processor(text="<cell> Describe this cell.", cells=make_counts(1), gene_names=GENES)
        assert torch.isfinite(AutoModel.from_pretrained(folder)(**inputs).logits).all()


def test_a_checkpoint_loads_with_its_own_code(finished):
    folder = last_checkpoint(finished[0] / "stages" / STAGES[1])
    assert folder.endswith(f"checkpoint-{NUM_STEPS}")
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    assert_equal(model.state_dict(), weights(finished[0] / "stages" / STAGES[1] / "model"))


def test_a_run_is_not_overwritten(finished):
    with pytest.raises(ValueError, match=r"`output_dir`.*holds a training run already. Pass --resume"):
        pretrain(recipe_with_checkpoints(finished[0]), [make_adata()])


def test_a_finished_run_resumes_to_itself(finished):
    before = weights(finished[0] / "model")
    pretrain(recipe_with_checkpoints(finished[0]), [make_adata()], resume=True)
    assert_equal(before, weights(finished[0] / "model"))


def test_another_recipe_or_other_cells_are_not_resumed(finished, tmp_path):
    output_dir = finished[0]
    before = weights(output_dir / "model")
    recipe = recipe_with_checkpoints(output_dir)
    assert Recipe.from_yaml(output_dir / "recipe.yaml") == recipe  # what is written can be run again
    recipe.data.max_genes = 32
    recipe.stages[0].losses["masked_expression"] = 0.25
    message = (
        r"holds a run of another recipe or other cells: data\.max_genes \(24 there, 32 here\); "
        r"stages\.0\.losses\.masked_expression \(0\.5 there, 0\.25 here\)\. Resume with"
    )
    with pytest.raises(ValueError, match=message):
        pretrain(recipe, [make_adata()], resume=True)

    recipe = recipe_with_checkpoints(output_dir)
    other = make_adata()
    other.X[0, 0] += 1
    with pytest.raises(ValueError, match="other cells: counts "):
        pretrain(recipe, [other], resume=True)
    renamed = make_adata()
    renamed.var_names = [*GENES[:-1], "OTHER"]
    with pytest.raises(ValueError, match="other cells: gene_vocabulary "):
        pretrain(recipe, [renamed], resume=True)
    renamed = make_adata()
    renamed.obs["tissue"] = "liver"
    with pytest.raises(ValueError, match=r"other cells: tokenizer .*; facts "):
        pretrain(recipe, [renamed], resume=True)
    assert_equal(before, weights(output_dir / "model"))

    moved = tmp_path / "moved"
    shutil.copytree(output_dir, moved)
    pretrain(recipe_with_checkpoints(moved), [make_adata()], resume=True)
    (moved / "sha256.yaml").unlink()
    with pytest.raises(ValueError, match=r"holds a run without sha256\.yaml"):
        pretrain(recipe_with_checkpoints(moved), [make_adata()], resume=True)


@pytest.mark.parametrize("seen", ["n_gpu", "world_size"])
def test_several_devices_are_refused_before_training(tmp_path, monkeypatch, seen):
    monkeypatch.setattr(TrainingArguments, seen, property(lambda self: 2))
    with pytest.raises(ValueError, match=r"Training found .*CUDA_VISIBLE_DEVICES=0"):
        pretrain(read(make_recipe(tmp_path / "run"), tmp_path), [make_adata()])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("existed", [False, True])
def test_a_killed_save_leaves_no_half_written_folder(tmp_path, monkeypatch, existed):
    model, processor, folder = make_model(), make_processor(), tmp_path / "model"
    if existed:
        save_repository(model, processor, folder, "first")
    before = {path.name: path.read_bytes() for path in folder.iterdir()} if existed else None

    def die(*arguments, **kwargs):
        raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(type(processor), "save_pretrained", die)
        with pytest.raises(RuntimeError, match="killed"):
            save_repository(model, processor, folder, "second")
    assert folder.exists() == existed
    if existed:
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    save_repository(model, processor, folder, "third")
    assert (folder / "README.md").read_text() == "third"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


# Restarts


def interrupt(patch: pytest.MonkeyPatch, place: int, step: int) -> None:
    """Kills training in a stage, before its step `step` (from 0)."""
    losses = make_recipe(Path())["stages"][place]["losses"]
    training_step = ScMMGPTTrainer.training_step

    def step_or_die(self, *arguments, **kwargs):
        if self.loss_weights == losses and self.state.global_step == step:
            raise RuntimeError("killed")
        return training_step(self, *arguments, **kwargs)

    patch.setattr(ScMMGPTTrainer, "training_step", step_or_die)


@pytest.mark.parametrize(
    ("place", "step", "checkpoint"),
    [(0, 5, 3), (1, 6, 6), (2, 4, 3), (1, 0, None), (2, 1, None)],
    ids=["cell", "discriminative", "generative", "between stages", "before a checkpoint"],
)
def test_a_resumed_run_ends_with_the_very_same_weights(finished, tmp_path, monkeypatch, place, step, checkpoint):
    output_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, place, step)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(recipe_with_checkpoints(output_dir), [make_adata()])
    found = last_checkpoint(output_dir / "stages" / STAGES[place])
    assert (found and Path(found).name) == (checkpoint and f"checkpoint-{checkpoint}")
    assert not (output_dir / "model").exists()
    torch.manual_seed(12345)  # whatever else the new process has drawn
    pretrain(recipe_with_checkpoints(output_dir), [make_adata()], resume=True)
    assert_equal(weights(finished[0] / "model"), weights(output_dir / "model"))
    history = [
        json.loads((folder / "stages" / STAGES[place] / "losses.json").read_text())
        for folder in (finished[0], output_dir)
    ]
    one, two = ([entry.get("loss") for entry in each] for each in history)
    assert one == two


def test_a_checkpoint_that_was_cut_short_is_passed_over(finished, tmp_path, monkeypatch):
    output_dir = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt(patch, 1, 6)
        with pytest.raises(RuntimeError, match="killed"):
            pretrain(recipe_with_checkpoints(output_dir), [make_adata()])
    newest = Path(last_checkpoint(output_dir / "stages" / STAGES[1]))
    for name in ("README.md", "trainer_state.json", "optimizer.pt"):
        (newest / name).unlink()
    pretrain(recipe_with_checkpoints(output_dir), [make_adata()], resume=True)
    assert_equal(weights(finished[0] / "model"), weights(output_dir / "model"))


def test_another_seed_gives_another_model(finished, tmp_path):
    values = make_recipe(tmp_path / "run", 1, seed=1)
    values["stages"] = values["stages"][:1]
    other = weights(pretrain(read(values, tmp_path), [make_adata()]))
    start = finished[1]
    assert not torch.equal(other["qformer.query_tokens"], start["qformer.query_tokens"])


# Cells


def test_several_studies_share_one_vocabulary(tmp_path):
    one, two = make_adata(20), make_adata(20, seed=1)[:, 10:50].copy()
    two.var_names = [*GENES[10:40], *(f"OTHER{i}" for i in range(10))]
    two.var["ensembl_id"] = [f"ENSG{i:011d}" for i in range(40)]
    values = make_recipe(tmp_path / "run", 2)
    final = pretrain(read(values, tmp_path), [one, two])
    extractor = AutoProcessor.from_pretrained(final).feature_extractor
    assert extractor.vocab[:70] == [*GENES, *(f"OTHER{i}" for i in range(10))]
    assert extractor.ensembl_ids[9:11] == ["", "ENSG00000000000"]
    profile = weights(final)["cell_model.gene_profile"]
    assert (profile[:70] > 0).all()
    assert (profile[70:] == 0).all()
    assert "40 cells of demo" in (final / "README.md").read_text()


def test_unusable_cells_stop_training_before_it_begins(tmp_path):
    adata = make_adata()
    adata.X = adata.X.astype(float) / 3
    with pytest.raises(ValueError, match="raw counts"):
        pretrain(read(make_recipe(tmp_path / "run"), tmp_path), [adata])
    recipe = read(make_recipe(tmp_path / "run", data={"sources": ["demo"], "label_key": "celltype"}), tmp_path)
    with pytest.raises(ValueError, match="`label_key` is 'celltype'"):
        pretrain(recipe, [make_adata()])
    assert not (tmp_path / "run").exists()


# A pretrained text model


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory) -> Path:
    """A GPT-2 as people have it: no padding token, no cell token."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(["<|endoftext|>", *sorted(alphabet)])}, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
    torch.manual_seed(4)
    config = GPT2Config(
        n_embd=16, n_layer=1, n_head=2, n_positions=1024, vocab_size=len(tokenizer), bos_token_id=0, eos_token_id=0
    )
    folder = tmp_path_factory.mktemp("text") / "gpt2"
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_pretrained_text_model_keeps_its_weights_and_gets_a_cell_token(text_folder, tmp_path):
    values = make_recipe(tmp_path / "run", 1, text={"pretrained": str(text_folder)})
    del values["stages"][1]
    final = pretrain(read(values, tmp_path), [make_adata()])
    processor = AutoProcessor.from_pretrained(final)
    assert processor.cell_token_id == 257
    assert processor.tokenizer.pad_token == "<|endoftext|>"
    assert processor.tokenizer.decode(processor.tokenizer("A<cell>, é")["input_ids"]) == "A<cell>, é"

    pretrained = GPT2LMHeadModel.from_pretrained(text_folder).state_dict()
    after_cells = weights(tmp_path / "run" / "stages" / "0-cell" / "model")
    for name, value in pretrained.items():
        ours = after_cells[f"language_model.{name}"]
        assert torch.equal(ours[: len(value)], value), name
    assert after_cells["language_model.transformer.wte.weight"].shape[0] == 258
    assert after_cells["qformer.text_embeddings.word_embeddings.weight"].shape[0] == 258
    final_weights = weights(final)
    assert not torch.equal(
        final_weights["language_model.transformer.wpe.weight"], pretrained["transformer.wpe.weight"]
    )
    model = AutoModel.from_pretrained(final)
    assert model.generation_config.eos_token_id == 0
    assert model.config.text_config.model_type == "gpt2"
    assert f"gpt2, from {text_folder}" in (final / "README.md").read_text()


def test_a_text_model_saved_in_half_precision_is_trained_in_single(text_folder, tmp_path, monkeypatch):
    folder = tmp_path / "half"
    GPT2LMHeadModel.from_pretrained(text_folder, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(text_folder).save_pretrained(folder)

    def run(name, resume=False):
        values = make_recipe(tmp_path / name, 2, text={"pretrained": str(folder)})
        del values["stages"][1]
        for stage in values["stages"]:
            stage["arguments"]["bf16"] = True
        return pretrain(read(values, tmp_path), [make_adata()], resume)

    whole = weights(run("whole"))
    assert {value.dtype for value in whole.values() if value.is_floating_point()} == {torch.float32}
    with monkeypatch.context() as patch:
        interrupt(patch, 2, 0)
        with pytest.raises(RuntimeError, match="killed"):
            run("stopped")
    assert_equal(whole, weights(run("stopped", resume=True)))


def test_prompts_of_unequal_length_are_answered_as_alone(text_folder, tmp_path):
    values = make_recipe(tmp_path / "run", 1, text={"pretrained": str(text_folder)})
    values["stages"] = values["stages"][-1:]
    final = pretrain(read(values, tmp_path), [make_adata()])
    processor, model = AutoProcessor.from_pretrained(final), AutoModel.from_pretrained(final)
    prompts, cells = ["<cell> A", "<cell> A much longer question about it"], make_adata(2)
    assert processor.tokenizer.padding_side == "left"

    def answer(**kwargs):
        inputs = processor(**kwargs)
        return model.generate(**inputs, max_new_tokens=5, do_sample=False)[:, inputs["input_ids"].shape[1] :].tolist()

    together = answer(text=prompts, cells=cells)
    assert together == [answer(text=prompts[i], cells=cells[i])[0] for i in range(2)]


# Recipes


def test_the_shipped_recipes_are_read(repository):
    paths = sorted((repository / "train" / "recipes").glob("*.yaml"))
    assert paths
    for path in paths:
        recipe = Recipe.from_yaml(path, output_dir="elsewhere", seed=3)
        assert (recipe.output_dir, recipe.seed, recipe.name) == ("elsewhere", 3, path.stem)
        assert [stage.name for stage in recipe.stages] == ["cell", "discriminative", "generative"]


def change(*keys, value):
    """An edit of the recipe: follows the keys and sets the last, or deletes it where `value` is None."""

    def edit(values):
        for key in keys[:-1]:
            values = values[key]
        if value is None:
            del values[keys[-1]]
        else:
            values[keys[-1]] = value

    return edit


@pytest.mark.parametrize(
    ("edit", "phrase"),
    [
        (change("learning_rate", value=1), r"unknown keys \['learning_rate'\].*Known keys: \['data'"),
        (change("stages", value=None), r"missing keys \['stages'\]"),
        (change("data", "sources", value=None), r"`data` of the recipe: .*missing keys \['sources'\]"),
        (change("data", value=3), "`data` of the recipe is 3; expected a mapping"),
        (change("data", "source", value=[]), r"`data` .*unknown keys \['source'\]"),
        (change("text", "pretrain", value="gpt2"), r"`text` .*unknown keys \['pretrain'\]"),
        (change("text", "config", "hiden_size", value=8), r"`text.config` names \['hiden_size'\].*hidden_size"),
        (change("model", "latent_sise", value=8), r"`model` names \['latent_sise'\].*latent_size"),
        (change("model", "text_config", value={}), r"`model` names \['text_config'\]"),
        (change("model", "cell_config", "layers", value=2), r"`model.cell_config` names \['layers'\]"),
        (change("model", "qformer_config", "width", value=2), r"`model.qformer_config` names \['width'\]"),
        (change("model", "initializer_range", value="5e-2"), r"`model`: .*is the text '5e-2'.*1.0e-3"),
        (change("stages", value="all"), "`stages` of the recipe is 'all'; expected a list"),
        (change("stages", value=[]), "expected at least one stage"),
        (change("stages", 0, value="cell"), "`stages` of the recipe is 'cell'; expected a mapping"),
        (change("stages", 0, "loss", value={}), r"`stages` .*unknown keys \['loss'\]"),
        (change("stages", 1, "name", value="cell"), "'cell', 'cell', 'generative'.*a name of its own"),
        (change("stages", 0, "losses", value={"reconstruction": 1}), r"names \['reconstruction'\]; choose of .*flow"),
        (change("stages", 0, "losses", value={}), "`losses` of stage 'cell' is {}; expected a weight"),
        (change("stages", 0, "losses", value=["flow"]), r"`losses` of stage 'cell' is \['flow'\]; expected a weight"),
        (change("stages", 0, "losses", value={"flow": -1}), "gives flow the weight -1; expected a number"),
        (change("stages", 0, "losses", value={"flow": "much"}), "gives flow the weight 'much'"),
        (change("stages", 0, "modules", value="cell_model"), "`modules` of stage 'cell' is 'cell_model'"),
        (change("stages", 0, "modules", value=[]), r"`modules` of stage 'cell' is \[\]"),
        (change("stages", 2, "collator", "dropout", value=0.1), r"stage 'generative'` names \['dropout'\]"),
        (change("stages", 2, "collator", "tasks", value={"chat": 1}), r"`tasks` names \['chat'\], expected"),
        (change("words", value={"wording": "rich"}), r"`words.wording` is 'rich', expected one of"),
        (change("words", value={"markers": ["no.csv"]}), r"`words.markers` names \['no.csv'\].*paths of CSV tables"),
        (change("words", value={"descriptions": "x.csv"}), r"`words.descriptions` is 'x.csv'; expected a list"),
        (change("stages", 0, "arguments", "epochs", value=1), r"`arguments of stage 'cell'` names \['epochs'\]"),
        (change("stages", 0, "arguments", "eval_strategy", value="steps"), r"sets \['eval_strategy'\]: training meas"),
        (change("stages", 0, "arguments", "load_best_model_at_end", value=True), r"sets \['load_best_model_at_end'\]"),
        (change("text", "pretrained", value="gpt2"), r"`text` sets \['vocab_size', 'config'\] beside .*'gpt2'"),
        (change("stages", 0, "arguments", "output_dir", value="x"), r"names \['output_dir'\]"),
        (change("stages", 0, "arguments", "learning_rate", value="1e-3"), r"learning_rate is the text '1e-3'"),
    ],
)  # fmt: skip
def test_a_wrong_recipe_is_refused_with_the_cure(tmp_path, edit, phrase):
    values = make_recipe(tmp_path)
    edit(values)
    with pytest.raises(ValueError, match=phrase):
        Recipe.from_yaml(write_recipe(tmp_path / "recipe.yaml", values))


def test_a_file_that_is_no_recipe_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"there is no recipe at .*absent.yaml. See train/recipes"):
        Recipe.from_yaml(tmp_path / "absent.yaml")
    path = tmp_path / "recipe.yaml"
    path.write_text("stages: [unclosed\ndata: {")
    with pytest.raises(ValueError, match="is not valid YAML: while parsing") as error:
        Recipe.from_yaml(path)
    assert "\n" not in str(error.value)
    path.write_text("- a list")
    with pytest.raises(ValueError, match="expected a mapping"):
        Recipe.from_yaml(path)


# Streams


def streaming_recipe(output_dir: Path, corpus: Path, stages: slice, num_workers: int = 0) -> Recipe:
    data = {"sources": [str(corpus)], "max_genes": 24, "max_tokens_per_batch": 200, "sampling": {"cell_type": 0.5}}
    values = make_recipe(output_dir, NUM_STEPS, name="micro", data=data)
    for stage in values["stages"]:
        del stage["arguments"]["per_device_train_batch_size"]
        stage["arguments"] |= {"save_strategy": "steps", "save_steps": SAVE_STEPS}
        stage["arguments"] |= {"dataloader_num_workers": num_workers}
    values["stages"] = values["stages"][stages]
    return read(values, output_dir.parent)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus", make_adata(60))


def remember_cells(patch: pytest.MonkeyPatch) -> list[list[float]]:
    """A list that receives the counts of every batch that is trained on."""
    seen = []
    training_step = ScMMGPTTrainer.training_step

    def step(self, model, inputs, *arguments, **kwargs):
        seen.append((tuple(self.loss_weights), inputs["target_counts"].tolist()))
        return training_step(self, model, inputs, *arguments, **kwargs)

    patch.setattr(ScMMGPTTrainer, "training_step", step)
    return seen


@pytest.mark.parametrize(("stages", "num_workers"), [(slice(1, 3), 0), (slice(1, 2), 2)])
def test_a_streamed_run_goes_on_with_the_very_next_cell(corpus, tmp_path, monkeypatch, stages, num_workers):
    def run(name, **options):
        with monkeypatch.context() as patch:
            seen = remember_cells(patch)
            if name == "stopped":
                interrupt(patch, 1, 5)
                with pytest.raises(RuntimeError, match="killed"):
                    pretrain(streaming_recipe(tmp_path / "run", corpus, stages, num_workers))
            else:
                pretrain(streaming_recipe(tmp_path / name, corpus, stages, num_workers), **options)
        return seen

    whole, before, after = run("whole"), run("stopped"), run("run", resume=True)
    assert len(whole) == NUM_STEPS * (stages.stop - stages.start)
    assert before == whole[:5]
    assert after == whole[SAVE_STEPS:]  # from the checkpoint on
    assert_equal(weights(tmp_path / "whole" / "model"), weights(tmp_path / "run" / "model"))
    assert "60 cells of corpus" in (tmp_path / "run" / "model" / "README.md").read_text()


def test_another_corpus_is_not_resumed(corpus, tmp_path):
    shutil.copytree(corpus, tmp_path / "corpus")
    recipe = streaming_recipe(tmp_path / "run", tmp_path / "corpus", slice(1))
    pretrain(recipe)
    manifest = tmp_path / "corpus" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    with pytest.raises(ValueError, match=r"holds a run of another recipe or other cells: .*corpus \("):
        pretrain(recipe, resume=True)


def test_files_and_memory_are_streamed_as_well(corpus, tmp_path):
    make_adata(20, seed=1).write_h5ad(tmp_path / "more.h5ad")
    recipe = streaming_recipe(tmp_path / "run", corpus, slice(1))
    recipe.data.sources.append(str(tmp_path / "more.h5ad"))
    recipe.data.sampling = {"source": 0.0}
    assert "80 cells of corpus, more.h5ad" in (pretrain(recipe) / "README.md").read_text()
    recipe = streaming_recipe(tmp_path / "memory", tmp_path / "absent", slice(1))
    assert "40 cells of" in (pretrain(recipe, [make_adata()]) / "README.md").read_text()


def test_recipes_of_streams_are_checked_before_training(corpus, tmp_path):
    values = make_recipe(tmp_path / "run")
    for data, message in (
        ({"sources": [str(corpus)]}, "names a corpus, which is streamed.*Set max_tokens_per_batch"),
        ({"sources": ["demo"], "sampling": {"tissue": 0.5}}, "`data.sampling` weighs the cells of a stream"),
        ({"sources": ["demo"], "max_tokens_per_batch": 99}, "of stage 'cell': .*no per_device_train_batch_size"),
    ):
        with pytest.raises(ValueError, match=message):
            read(values | {"data": data}, tmp_path)
