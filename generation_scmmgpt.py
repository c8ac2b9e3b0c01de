"""What `generate` means for scMMGPT: text from cells and text, or cells from text.

Remote code: imports only torch and transformers.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationMixin
from transformers.utils import ModelOutput

CELL_INPUTS = (
    "cell_gene_ids",
    "cell_values",
    "cell_attention_mask",
    "panel_gene_ids",
    "cell_panel_index",
    "target_gene_ids",
    "target_counts",
)
ROWS_OF_CELLS = tuple(name for name in CELL_INPUTS if name != "panel_gene_ids")


@dataclass
class ScMMGPTCellGenerationOutput(ModelOutput):
    r"""
    Generated cells; `S` = prompts x `num_return_sequences`, the cells of one prompt in a row.

    Args:
        counts (`torch.FloatTensor` of shape `(S, M)`): whole-number counts.
        gene_ids (`torch.LongTensor` of shape `(M,)`): the genes of the panel, ascending.
        library_size (`torch.FloatTensor` of shape `(S,)`): expected total counts over the panel.
        latents (`torch.FloatTensor` of shape `(S, Z)`): the cell latents that were drawn.
    """

    counts: torch.Tensor | None = None
    gene_ids: torch.Tensor | None = None
    library_size: torch.Tensor | None = None
    latents: torch.Tensor | None = None


class ScMMGPTGenerationMixin(GenerationMixin):
    """Adds `generation_mode="cell"` to `generate`, and keeps several cells per prompt in step with their text."""

    @torch.no_grad()
    def generate(
        self, inputs: torch.Tensor | None = None, generation_mode: str = "text", **kwargs
    ) -> torch.Tensor | ModelOutput:
        """
        Generates text (`generation_mode="text"`, as in every transformers model) or cells (`"cell"`).

        Args:
            inputs (`torch.LongTensor` of shape `(B, T)`, *optional*): prompt ids, the same as `input_ids`.
            generation_mode (`str`): `"text"` or `"cell"`.
            kwargs: for text, everything `GenerationMixin.generate` takes and the processor's cell tensors. For
                cells, `input_ids`, `attention_mask` and
                * num_return_sequences (`int`, defaults to 1): cells per prompt;
                * guidance_scale (`float`, defaults to 1.5): classifier-free guidance, 1 for none;
                * num_flow_steps (`int`, defaults to 20): Heun steps;
                * gene_ids (`torch.LongTensor` of shape `(M,)`, *optional*): the panel, that is the genes the assay
                  would measure; every gene the model was trained on when absent;
                * generator (`torch.Generator`, *optional*): the source of randomness; the global one when absent.
                Cells in the inputs are not looked at: a generated cell depends on the text alone.

        Returns:
            Token ids as in transformers, or [`ScMMGPTCellGenerationOutput`].
        """
        if generation_mode == "text":
            return super().generate(inputs=inputs, **kwargs)
        if generation_mode != "cell":
            raise ValueError(f"`generation_mode`={generation_mode!r}: expected 'text' or 'cell'.")
        input_ids = kwargs.pop("input_ids", inputs)
        if input_ids is None:
            raise ValueError("`input_ids` is missing: cells are generated from text. Pass processor(text=...).")
        return self._generate_cells(input_ids, **{k: v for k, v in kwargs.items() if k not in CELL_INPUTS})

    def _generate_cells(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        num_return_sequences: int = 1,
        guidance_scale: float = 1.5,
        num_flow_steps: int = 20,
        gene_ids: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        **unknown: Any,
    ) -> ScMMGPTCellGenerationOutput:
        if unknown:
            raise ValueError(
                f"`generate(generation_mode='cell')` does not know {sorted(unknown)}. It takes num_return_sequences, "
                "guidance_scale, num_flow_steps, gene_ids and generator."
            )
        for name, value in (
            ("num_return_sequences", num_return_sequences),
            ("num_flow_steps", num_flow_steps),
        ):
            if value < 1:
                raise ValueError(f"`{name}`={value}: expected at least 1.")
        if (input_ids == self.config.cell_token_id).any():
            raise ValueError(
                "The prompt holds a cell placeholder, but cells are generated from text alone. "
                "Describe the cell in words."
            )
        panel_mask = self._panel_of(gene_ids)
        condition = self.get_condition_tokens(input_ids, attention_mask)
        condition = condition.repeat_interleave(num_return_sequences, dim=0)
        num_targets = self.config.latent_size + 1
        noise = torch.randn(
            len(condition),
            num_targets,
            generator=generator,
            device=condition.device,
            dtype=torch.float32,
        )
        target = self.cell_generator.sample(noise.to(condition.dtype), condition, guidance_scale, num_flow_steps)
        latents = target[:, :-1]
        library_size = target[:, -1].exp() * self.cell_model.panel_share(panel_mask)
        panel = panel_mask[0].nonzero().squeeze(1)
        probs = self.expression_log_probs(latents.to(condition.dtype), panel_mask)[:, panel].exp()
        counts = torch.poisson(library_size[:, None] * probs, generator=generator)
        return ScMMGPTCellGenerationOutput(counts=counts, gene_ids=panel, library_size=library_size, latents=latents)

    def _panel_of(self, gene_ids: torch.Tensor | None) -> torch.Tensor:
        """`(1, V)` bool: the asked genes, or every gene the model was trained on."""
        if gene_ids is None:
            return self.panel_mask()
        gene_ids = torch.as_tensor(gene_ids, device=self.device, dtype=torch.long)
        known = self.config.cell_config.vocab_size
        if gene_ids.ndim != 1 or gene_ids.numel() == 0 or gene_ids.min() < 0 or gene_ids.max() >= known:
            raise ValueError(
                f"`gene_ids` of shape {tuple(gene_ids.shape)}: expected a non-empty list of gene tokens in "
                f"[0, {known}). Get them from processor.feature_extractor.gene_ids(names), without the unknown (-1)."
            )
        return self.panel_mask(gene_ids[None])

    def prepare_inputs_for_generation(
        self, input_ids: torch.Tensor, is_first_iteration: bool = False, **kwargs
    ) -> dict[str, Any]:
        """Cells are read once, with the prompt; the cache holds them afterwards."""
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, is_first_iteration=is_first_iteration, **kwargs
        )
        if not is_first_iteration and model_inputs.get("use_cache", True):
            for name in CELL_INPUTS:
                model_inputs.pop(name, None)
        return model_inputs

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Repeats each prompt with all of its own cells, which may be none or several; panels stay as they are."""
        cell_inputs = {name: model_kwargs.pop(name) for name in CELL_INPUTS if name in model_kwargs}
        if expand_size > 1 and cell_inputs.get("cell_gene_ids") is not None:
            index = self._expanded_cell_index(input_ids, expand_size)
            for name in ROWS_OF_CELLS:
                if cell_inputs.get(name) is not None:
                    cell_inputs[name] = cell_inputs[name][index]
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | cell_inputs

    def _expanded_cell_index(self, input_ids: torch.Tensor, expand_size: int) -> torch.Tensor:
        placeholders = (input_ids == self.config.cell_token_id).sum(1)
        cells_per_prompt = (placeholders // self.config.num_cell_tokens).tolist()
        index, start = [], 0
        for num_cells in cells_per_prompt:
            index += list(range(start, start + num_cells)) * expand_size
            start += num_cells
        return torch.tensor(index, dtype=torch.long, device=input_ids.device)


__all__ = ["ScMMGPTCellGenerationOutput", "ScMMGPTGenerationMixin"]
