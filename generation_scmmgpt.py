"""What `generate` means for scMMGPT: text from cells and text, or cells from text by the flow that is defined here.

Remote code: imports only torch, transformers and the configuration beside it. Shape letters as in the modeling file.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationConfig, GenerationMixin
from transformers.utils import ModelOutput, torch_compilable_check

from .configuration_scmmgpt import ScMMGPTConfig

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


class ScMMGPTFlowBlock(nn.Module):
    """Residual MLP whose norm is shifted, scaled and gated by the condition (adaLN)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size, elementwise_affine=False)
        self.modulation = nn.Linear(hidden_size, 3 * hidden_size)
        self.fc1 = nn.Linear(hidden_size, 4 * hidden_size)
        self.fc2 = nn.Linear(4 * hidden_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = self.modulation(F.silu(condition)).chunk(3, dim=-1)
        update = self.fc2(F.silu(self.fc1(self.norm(hidden_states) * (1 + scale) + shift)))
        return hidden_states + gate * update


class ScMMGPTCellGenerator(nn.Module):
    """
    Rectified flow (Liu et al. 2023; Lipman et al. 2023) on the cell latent and the log library size, given
    condition tokens. The flow runs on standardised targets: `target_mean` and `target_std` `(Z + 1,)` come from
    the training cells.
    """

    def __init__(self, config: ScMMGPTConfig) -> None:
        super().__init__()
        hidden_size = config.generator_hidden_size
        condition_size = config.text_projector_config.hidden_size
        num_targets = config.latent_size + 1
        self.condition_dropout = config.condition_dropout
        self.null_condition = nn.Parameter(torch.zeros(config.num_condition_tokens, condition_size))
        self.in_proj = nn.Linear(num_targets, hidden_size)
        self.time_in = nn.Linear(hidden_size, hidden_size)
        self.time_out = nn.Linear(hidden_size, hidden_size)
        self.condition_proj = nn.Linear(config.num_condition_tokens * condition_size, hidden_size)
        self.blocks = nn.ModuleList([ScMMGPTFlowBlock(hidden_size) for _ in range(config.generator_num_layers)])
        self.norm = nn.LayerNorm(hidden_size)
        self.out_proj = nn.Linear(hidden_size, num_targets)
        self.register_buffer("target_mean", torch.zeros(num_targets))
        self.register_buffer("target_std", torch.ones(num_targets))

    def _embed_time(self, time: torch.Tensor) -> torch.Tensor:
        """`(C,)` in [0, 1] -> `(C, H)` sinusoidal features (Vaswani et al. 2017), then an MLP."""
        half = self.time_in.in_features // 2
        rates = torch.exp(torch.arange(half, device=time.device) * (-9.21 / half))  # 1 down to 1e-4
        angles = 1000.0 * time.float()[:, None] * rates
        features = torch.cat([angles.sin(), angles.cos()], dim=-1)
        features = F.pad(features, (0, self.time_in.in_features - 2 * half)).to(self.time_in.weight.dtype)
        return self.time_out(F.silu(self.time_in(features)))

    def velocity(self, position: torch.Tensor, time: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """`(C, Z + 1)` position, `(C,)` time, `(C, K, D')` condition tokens -> `(C, Z + 1)` float32 velocity."""
        context = self._embed_time(time) + self.condition_proj(condition.flatten(1))
        hidden_states = self.in_proj(position.to(condition.dtype))
        for block in self.blocks:
            hidden_states = block(hidden_states, context)
        return self.out_proj(self.norm(hidden_states)).float()

    def forward(self, target: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """
        Flow-matching loss: from noise x0 to the target x1 along x_t = (1 - t) x0 + t x1, regress x1 - x0.

        Args:
            target (`torch.Tensor` of shape `(C, Z + 1)`): latent and log library size; receives no gradient.
            condition (`torch.Tensor` of shape `(C, K, D')`): condition tokens; dropped at random in training.

        Returns:
            `torch.Tensor` of shape `()`: mean squared error.
        """
        target = (target.detach().float() - self.target_mean) / self.target_std
        if self.training:
            dropped = torch.rand(len(target), 1, 1, device=target.device) < self.condition_dropout
            condition = torch.where(dropped, self.null_condition, condition)
        noise = torch.randn_like(target)
        time = torch.rand(len(target), device=target.device)
        position = torch.lerp(noise, target, time[:, None])
        return F.mse_loss(self.velocity(position, time, condition), target - noise)

    def _guided_velocity(
        self, position: torch.Tensor, time: torch.Tensor, condition: torch.Tensor, guidance_scale: float
    ) -> torch.Tensor:
        velocity = self.velocity(position, time, condition)
        if guidance_scale == 1.0:
            return velocity
        null = self.velocity(position, time, self.null_condition.expand_as(condition))
        return null + guidance_scale * (velocity - null)

    def sample(
        self, noise: torch.Tensor, condition: torch.Tensor, guidance_scale: float, num_steps: int
    ) -> torch.Tensor:
        """
        Integrates the flow from noise to a target with Heun's method.

        Args:
            noise (`torch.FloatTensor` of shape `(C, Z + 1)`): standard normal, float32 as every step is.
            condition (`torch.Tensor` of shape `(C, K, D')`): condition tokens.
            guidance_scale (`float`): 1 follows the condition; above 1 exaggerates it (Ho & Salimans 2022).
            num_steps (`int`): Heun steps, two velocities each.

        Returns:
            `torch.Tensor` of shape `(C, Z + 1)`: latent and log library size, in their own units.
        """
        position, step = noise, 1.0 / num_steps
        for i in range(num_steps):
            time = torch.full_like(noise[:, 0], i * step)
            start = self._guided_velocity(position, time, condition, guidance_scale)
            end = self._guided_velocity(position + step * start, time + step, condition, guidance_scale)
            position = position + 0.5 * step * (start + end)
        return position * self.target_std + self.target_mean


class ScMMGPTGenerationMixin(GenerationMixin):
    """Adds `generation_mode="cell"` to `generate`, and keeps several cells per prompt in step with their text."""

    @torch.no_grad()
    def generate(
        self,
        inputs: torch.Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        *,
        generation_mode: str = "text",
        **kwargs,
    ) -> torch.Tensor | ModelOutput:
        """
        Generates text (`generation_mode="text"`, as in every transformers model) or cells (`"cell"`).

        Args:
            inputs (`torch.LongTensor` of shape `(B, T)`, *optional*): prompt ids, the same as `input_ids`.
            generation_config (`GenerationConfig`, *optional*): for text only, as in transformers.
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

        Raises:
            `ValueError`: for an unknown mode; for text, when placeholders and cells do not agree in number; for cells,
            when the prompt is missing, holds a placeholder or is too long, or a setting is unknown or out of range.
        """
        if generation_mode == "text":
            return super().generate(inputs, generation_config, **kwargs)
        if generation_mode != "cell":
            raise ValueError(f"`generation_mode`={generation_mode!r}: expected 'text' or 'cell'.")
        if generation_config is not None:
            raise ValueError("`generation_config` is for text. Pass the settings of cells as keywords.")
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
        for name, value, least in (
            ("num_return_sequences", num_return_sequences, 1),
            ("num_flow_steps", num_flow_steps, 1),
            ("guidance_scale", guidance_scale, 0),
        ):
            if not least <= value < float("inf"):
                raise ValueError(f"`{name}`={value}: expected a finite number of at least {least}.")
        if (input_ids == self.config.cell_token_id).any():
            raise ValueError(
                "The prompt holds a cell placeholder, but cells are generated from text alone. "
                "Describe the cell in words."
            )
        panel_mask = self._panel_of(gene_ids)
        condition = self.get_condition_tokens(input_ids, attention_mask)
        condition = condition.repeat_interleave(num_return_sequences, dim=0)
        shape = (len(condition), self.config.latent_size + 1)
        noise = torch.randn(shape, generator=generator, device=condition.device, dtype=torch.float32)
        target = self.cell_generator.sample(noise, condition, guidance_scale, num_flow_steps)
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
        if gene_ids.ndim == 1 and gene_ids.numel() and gene_ids.min() >= 0 and gene_ids.max() < known:
            panel_mask = self.panel_mask(gene_ids[None])
            if panel_mask.any():
                return panel_mask
        raise ValueError(
            f"`gene_ids` of shape {tuple(gene_ids.shape)}: expected a non-empty list of gene tokens in [0, {known}), "
            "<pad> and <cls> being none. Get them from processor.feature_extractor.gene_ids(names), without the "
            "unknown (-1)."
        )

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.Tensor,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool = False,
        **kwargs,
    ) -> dict[str, Any]:
        """Cells are read once, with the prompt; the cache holds them afterwards."""
        model_inputs = super().prepare_inputs_for_generation(
            input_ids, inputs_embeds=inputs_embeds, is_first_iteration=is_first_iteration, **kwargs
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
            inputs_embeds = model_kwargs.get("inputs_embeds")
            placeholders = self._placeholders(input_ids if inputs_embeds is None else None, inputs_embeds)
            self._check_placeholders(placeholders, len(cell_inputs["cell_gene_ids"]))
            index = self._expanded_cell_index(placeholders, expand_size)
            for name in ROWS_OF_CELLS:
                if cell_inputs.get(name) is not None:
                    cell_inputs[name] = cell_inputs[name][index]
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size, is_encoder_decoder, input_ids, **model_kwargs
        )
        return input_ids, model_kwargs | cell_inputs

    def _placeholders(self, input_ids: torch.Tensor | None, inputs_embeds: torch.Tensor | None) -> torch.Tensor:
        """`(B, T)` bool: where cells stand, read from the ids or, in their absence, from the embeddings."""
        if input_ids is not None:
            return input_ids == self.config.cell_token_id
        cell_token = torch.tensor(self.config.cell_token_id, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(cell_token)).all(-1)

    def _check_placeholders(self, placeholders: torch.Tensor, num_cells: int) -> None:
        expected = num_cells * self.config.num_cell_tokens
        torch_compilable_check(
            placeholders.sum() == expected,
            lambda: (
                f"`input_ids` holds {int(placeholders.sum())} cell placeholder tokens, but {num_cells} cells need "
                f"{num_cells} x {self.config.num_cell_tokens}. Write one `<cell>` per cell and let the processor "
                "expand it."
            ),
        )

    def _expanded_cell_index(self, placeholders: torch.Tensor, expand_size: int) -> torch.Tensor:
        index, start = [], 0
        for num_cells in (placeholders.sum(1) // self.config.num_cell_tokens).tolist():
            index += list(range(start, start + num_cells)) * expand_size
            start += num_cells
        return torch.tensor(index, dtype=torch.long, device=placeholders.device)


__all__ = ["ScMMGPTCellGenerationOutput", "ScMMGPTCellGenerator", "ScMMGPTGenerationMixin"]
