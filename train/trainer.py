"""transformers' Trainer with named, weighted losses, and checkpoints that are complete model repositories."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data import CellStream, StreamLoader

STREAM_STATE = "stream.json"


class ScMMGPTTrainer(Trainer):
    """
    Weighs the model's named losses and logs the mean of each since the last log.

    Args:
        loss_weights (`dict[str, float]`): weight of each loss, by its name without `_loss`.
        modules (`list[str]`): parts of the model that learn; the others are frozen and run without dropout.
        kwargs: everything that `transformers.Trainer` takes.
    """

    def __init__(self, *, loss_weights: dict[str, float], modules: list[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.loss_weights = loss_weights
        self.frozen = freeze_all_but(self.model, modules)
        # The parts are means over cells, so the Trainer itself divides by the accumulation steps.
        self.model_accepts_loss_kwargs = False
        self._sums: dict[str, torch.Tensor] = defaultdict(float)
        self._num_summed = 0

    def get_train_dataloader(self) -> DataLoader | StreamLoader:
        """A loader that knows its place for a [`CellStream`], which brings batches of its own; else as ever."""
        if isinstance(self.train_dataset, CellStream):
            context = self.args.dataloader_multiprocessing_context
            return StreamLoader(self.train_dataset, self.args.dataloader_num_workers, context)
        return super().get_train_dataloader()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor | tuple[torch.Tensor, Any]:
        """The weighted sum of the stage's losses, each remembered for the log."""
        for module in self.frozen:
            module.eval()
        outputs = model(**inputs)
        loss = sum(weight * outputs[f"{name}_loss"] for name, weight in self.loss_weights.items())
        for name in self.loss_weights:
            self._sums[f"{name}_loss"] += outputs[f"{name}_loss"].detach()
        self._num_summed += 1
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds the mean of each named loss since the last log."""
        logs |= {name: round(float(total) / self._num_summed, 5) for name, total in self._sums.items()}
        self._sums.clear()
        self._num_summed = 0
        super().log(logs, start_time)


def freeze_all_but(model: nn.Module, modules: list[str]) -> list[nn.Module]:
    """
    Lets only `modules` learn.

    Returns:
        `list[nn.Module]`: the frozen parts.

    Raises:
        ValueError: when a name is not a part of the model.
    """
    check_modules(model, modules)
    parts = dict(model.named_children())
    for name, part in parts.items():
        part.requires_grad_(name in modules)
    return [part for name, part in parts.items() if name not in modules]


def check_modules(model: nn.Module, modules: list[str]) -> None:
    """Raises a `ValueError` when a name is not a part of the model."""
    parts = sorted(name for name, _ in model.named_children())
    unknown = sorted(set(modules) - set(parts))
    if unknown:
        raise ValueError(f"`modules` names {unknown}, which the model does not have. Its parts: {parts}.")


class ModelCardCallback(TrainerCallback):
    """Writes the model card beside the weights of every checkpoint, which makes it a complete repository."""

    def __init__(self, card: str) -> None:
        self.card = card

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        (checkpoint / "README.md").write_text(self.card, encoding="utf-8")


class EpochCallback(TrainerCallback):
    """Tells the dataset the epoch. accelerate does so as well, but not after a restart inside an epoch."""

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        kwargs["train_dataloader"].dataset.set_epoch(int(state.epoch or 0))


class StreamCallback(TrainerCallback):
    """
    Keeps the place of a stream in every checkpoint, and goes on from it.

    Args:
        checkpoint (`str`, *optional*): the folder that training goes on from.
    """

    def __init__(self, checkpoint: str | None) -> None:
        self.checkpoint = checkpoint

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        if self.checkpoint is not None:
            text = (Path(self.checkpoint) / STREAM_STATE).read_text(encoding="utf-8")
            kwargs["train_dataloader"].load_state_dict(json.loads(text))

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs) -> None:
        checkpoint = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        text = json.dumps(kwargs["train_dataloader"].state_dict())
        (checkpoint / STREAM_STATE).write_text(text, encoding="utf-8")


__all__ = ["EpochCallback", "ModelCardCallback", "ScMMGPTTrainer", "StreamCallback", "check_modules", "freeze_all_but"]
