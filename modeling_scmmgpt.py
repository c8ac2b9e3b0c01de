"""The scMMGPT model: cell encoder, two projectors, text model, expression head and cell generator.

Remote code: imports only torch, transformers and its own siblings. Nothing here reads files, touches the network
or knows about AnnData.

Shape letters: B texts, T text tokens, C cells (all cells of a batch), G gene tokens of a cell, M genes of a
panel, N expressed genes of a cell, P panels, Q cell tokens, K condition tokens, D width, Z latent width,
V gene vocabulary.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, Blip2QFormerConfig, Blip2QFormerModel, Cache, PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.blip_2.modeling_blip_2 import Blip2TextEmbeddings
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_scmmgpt import IGNORE_VALUE, ScMMGPTCellConfig, ScMMGPTConfig
from .generation_scmmgpt import ScMMGPTCellGenerator, ScMMGPTFlowBlock, ScMMGPTGenerationMixin

AUTO_CLASSES = ("AutoModel", "AutoModelForCausalLM", "AutoModelForMultimodalLM")


@dataclass
class ScMMGPTOutput(ModelOutput):
    r"""
    Every loss whose inputs were given, by name, and the language model's outputs.

    Args:
        loss (`torch.Tensor` of shape `()`):
            The plain sum of the named losses; a trainer weighs the parts itself.
        cell_reconstruction_loss (`torch.Tensor` of shape `()`):
            Multinomial negative log-likelihood of the cell's counts given its latent, per count (nats).
        masked_expression_loss (`torch.Tensor` of shape `()`):
            Mean squared error of masked expression values.
        contrastive_loss, matching_loss (`torch.Tensor` of shape `()`):
            Cell-text contrastive and matching cross-entropies (nats).
        language_loss (`torch.Tensor` of shape `()`):
            Next-token cross-entropy of the labelled tokens (nats).
        flow_loss (`torch.Tensor` of shape `()`):
            Mean squared error of the flow's velocity.
        logits (`torch.Tensor` of shape `(B, T, text vocabulary)`):
            Next-token scores.
        past_key_values, hidden_states, attentions:
            As the text model returns them.
        cell_hidden_states (`torch.Tensor` of shape `(C, G, D)`):
            Gene states of the cell encoder; position 0 is the cell.
        cell_latents (`torch.Tensor` of shape `(C, Z)`):
            Cell latents.
    """

    loss: torch.Tensor | None = None
    cell_reconstruction_loss: torch.Tensor | None = None
    masked_expression_loss: torch.Tensor | None = None
    contrastive_loss: torch.Tensor | None = None
    matching_loss: torch.Tensor | None = None
    language_loss: torch.Tensor | None = None
    flow_loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    past_key_values: Cache | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cell_hidden_states: torch.Tensor | None = None
    cell_latents: torch.Tensor | None = None


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain softmax attention; the reference that every other attention path is held against."""
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


# --------------------------------------------------------------------------------------------- cell encoder


class ScMMGPTCellEmbeddings(nn.Module):
    """Gene identity plus expression value; a cell is a set, so there are no positions."""

    def __init__(self, config: ScMMGPTCellConfig) -> None:
        super().__init__()
        self.max_value = config.max_value
        self.gene_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.gene_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.value_in = nn.Linear(1, config.hidden_size)
        self.value_out = nn.Linear(config.hidden_size, config.hidden_size)
        self.value_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def embed_genes(self, gene_ids: torch.Tensor) -> torch.Tensor:
        """`(...,)` gene ids -> `(..., D)` normalised gene embeddings."""
        return self.gene_norm(self.gene_embeddings(gene_ids))

    def forward(self, gene_ids: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        values = values.to(self.value_in.weight.dtype).clamp(max=self.max_value).unsqueeze(-1)
        value_embeds = self.value_norm(self.value_out(F.relu(self.value_in(values))))
        return self.embed_genes(gene_ids) + self.dropout(value_embeds)


class ScMMGPTCellAttention(nn.Module):
    """Bidirectional self-attention among a cell's genes, with scGPT's fused query-key-value rows."""

    def __init__(self, config: ScMMGPTCellConfig) -> None:
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = False
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        num_cells, num_genes, _ = hidden_states.shape
        qkv = self.qkv_proj(hidden_states).view(num_cells, num_genes, 3, -1, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (C, heads, G, head_dim)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        dropout = self.attention_dropout if self.training else 0.0
        attn_output, attn_weights = attend(
            self, query, key, value, attention_mask, dropout=dropout, scaling=self.scaling, **kwargs
        )
        return self.out_proj(attn_output.reshape(num_cells, num_genes, -1)), attn_weights


class ScMMGPTCellLayer(GradientCheckpointingLayer):
    """One transformer layer; `norm_first=False` is `nn.TransformerEncoderLayer`'s post-norm, as in scGPT."""

    def __init__(self, config: ScMMGPTCellConfig) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.self_attn = ScMMGPTCellAttention(config)
        self.attn_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.act = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def _mlp(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.dropout(self.fc2(self.dropout(self.act(self.fc1(hidden_states)))))

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        if self.norm_first:
            attended, _ = self.self_attn(self.attn_norm(hidden_states), attention_mask, **kwargs)
            hidden_states = hidden_states + self.dropout(attended)
            return hidden_states + self._mlp(self.mlp_norm(hidden_states))
        attended, _ = self.self_attn(hidden_states, attention_mask, **kwargs)
        hidden_states = self.attn_norm(hidden_states + self.dropout(attended))
        return self.mlp_norm(hidden_states + self._mlp(hidden_states))


class ScMMGPTPreTrainedModel(PreTrainedModel):
    """Weight initialisation and the capabilities that transformers asks for."""

    config: ScMMGPTConfig
    base_model_prefix = "model"
    input_modalities = ("cell", "text")
    supports_gradient_checkpointing = True
    _no_split_modules = ["ScMMGPTCellLayer", "ScMMGPTCellEmbeddings", "Blip2QFormerLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, ScMMGPTCellModel):
            init.copy_(module.gene_profile, module.uniform_profile())
            if module.config.use_panel_embedding:
                # Orthogonal rows keep the distances between cells, as far as the width allows.
                init.orthogonal_(module.panel_embeddings.weight, gain=module.config.panel_embedding_size**0.5)
                init.normal_(module.profile_proj.weight, mean=0.0, std=module.config.panel_embedding_size**-0.5)
        elif isinstance(module, ScMMGPTQFormer | ScMMGPTTextProjector):
            init.normal_(module.query_tokens, mean=0.0, std=std)
        elif isinstance(module, ScMMGPTCellEmbeddings):
            # Without a bias, LayerNorm would cancel the scale of the value, and all values would look the same.
            init.uniform_(module.value_in.weight, -1.0, 1.0)
            init.uniform_(module.value_in.bias, -1.0, 1.0)
        elif isinstance(module, ScMMGPTExpressionHead):
            # A product of two small factors has no gradient to start from, so the factors start at unit scale.
            for linear in (module.to_latent, module.gene_query, module.query_proj, module.latent_in):
                init.normal_(linear.weight, mean=0.0, std=linear.in_features**-0.5)
            init.zeros_(module.gene_bias)
        elif isinstance(module, ScMMGPTContrastiveHead):
            init.constant_(module.logit_scale, module.initial_logit_scale)
        elif isinstance(module, ScMMGPTFlowBlock):
            # Zero gates: each block starts as the identity (Peebles & Xie 2023, adaLN-Zero).
            init.zeros_(module.modulation.weight)
            init.zeros_(module.modulation.bias)
        elif isinstance(module, ScMMGPTCellGenerator):
            init.normal_(module.null_condition, mean=0.0, std=std)
            init.zeros_(module.out_proj.weight)
            init.zeros_(module.target_mean)
            init.ones_(module.target_std)
        elif isinstance(module, Blip2TextEmbeddings):
            init.copy_(module.position_ids, torch.arange(module.position_ids.shape[-1]).expand((1, -1)))


class ScMMGPTCellModel(ScMMGPTPreTrainedModel):
    """
    The cell encoder: genes and their expression -> gene states, the cell's state at position 0 (`<cls>`).

    With the default configuration it computes exactly what scGPT's encoder does (Cui et al. 2024). The buffer
    `gene_profile` `(V,)` is the share of each gene in a typical transcriptome: it says which part of a cell a
    gene panel covers, and weighs the panel summary. It is uniform until data sets it.
    """

    config: ScMMGPTCellConfig
    base_model_prefix = "cell_model"
    main_input_name = "cell_gene_ids"
    _auto_class = "AutoModel"  # as in its configuration
    _keep_in_fp32_modules_strict = ["gene_profile"]
    # The encoder alone loads from a folder of the whole model, which holds these besides.
    _keys_to_ignore_on_load_unexpected = [
        r"^(cell_generator|cell_projector|contrastive_head|expression_head|language_model)\.",
        r"^(matching_head|qformer|text_projector|value_head)\.",
    ]
    _can_record_outputs = {"hidden_states": ScMMGPTCellLayer, "attentions": ScMMGPTCellAttention}

    def __init__(self, config: ScMMGPTCellConfig) -> None:
        super().__init__(config)
        self.embeddings = ScMMGPTCellEmbeddings(config)
        self.layers = nn.ModuleList([ScMMGPTCellLayer(config) for _ in range(config.num_hidden_layers)])
        self.final_norm = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.norm_first else nn.Identity()
        )
        if config.use_panel_embedding:
            width = config.panel_embedding_size
            self.panel_embeddings = nn.Embedding(config.vocab_size, width)
            self.panel_proj = nn.Linear(width, config.hidden_size)
            self.profile_norm = nn.LayerNorm(width, eps=1e-8)  # its input is a small difference
            self.profile_proj = nn.Linear(width, config.hidden_size)
        self.register_buffer("gene_profile", self.uniform_profile())
        self.gradient_checkpointing = False
        self.post_init()

    def uniform_profile(self) -> torch.Tensor:
        """`(V,)` float32: equal shares for all tokens that are genes."""
        profile = torch.ones(self.config.vocab_size)
        profile[self.config.special_token_ids] = 0.0
        return profile / profile.sum()

    def get_input_embeddings(self) -> nn.Embedding:
        return self.embeddings.gene_embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        self.embeddings.gene_embeddings = value

    def panel_mask(self, panel_gene_ids: torch.Tensor, cell_panel_index: torch.Tensor | None = None) -> torch.Tensor:
        """`(P, M)` padded gene ids, `(C,)` panel of each cell -> `(C, V)` bool: which tokens are measured genes;
        `(1, V)` where all cells share one panel."""
        mask = torch.zeros(
            panel_gene_ids.shape[0], self.config.vocab_size, dtype=torch.bool, device=panel_gene_ids.device
        )
        mask = mask.scatter(1, panel_gene_ids, True)
        special = torch.tensor(self.config.special_token_ids, device=mask.device)
        mask = mask.index_fill(1, special, False)
        return mask[:1] if len(mask) == 1 or cell_panel_index is None else mask[cell_panel_index]

    def panel_share(self, panel_mask: torch.Tensor) -> torch.Tensor:
        """`(P, V)` panel mask -> `(P,)` float32: share of a typical transcriptome that each panel covers."""
        return (panel_mask * self.gene_profile.float()).sum(-1).clamp(min=1e-6)

    def _summarise(self, gene_ids: torch.Tensor, values: torch.Tensor, panel_mask: torch.Tensor) -> torch.Tensor:
        """
        What the panel can show, and how the cell departs from what is typical there. Attention over hundreds of genes
        starts out as an average in which cells hardly differ; their difference from the average is the signal.

        Args:
            gene_ids, values (`torch.Tensor` of shape `(C, G)`): the tokens; masked and special ones are negative.
            panel_mask (`torch.BoolTensor` of shape `(C or 1, V)`): the genes measured.

        Returns:
            `torch.Tensor` of shape `(C, D)`.
        """
        gene_embeds = self.panel_embeddings.weight
        dtype = gene_embeds.dtype
        typical = panel_mask * torch.log1p(1e4 * self.gene_profile.float())
        typical = typical / typical.sum(-1, keepdim=True).clamp(min=1e-6)
        panel_mean = typical.to(dtype) @ gene_embeds
        weights = values.float().clamp(min=0.0)
        weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-6)
        # Not `gene_embeds[gene_ids]`: several threads would sum its gradient in another order each time.
        cell_mean = (weights.to(dtype).unsqueeze(1) @ F.embedding(gene_ids, gene_embeds)).squeeze(1)
        return self.panel_proj(panel_mean) + self.profile_proj(self.profile_norm(cell_mean - panel_mean))

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        cell_gene_ids: torch.Tensor,
        cell_values: torch.Tensor,
        cell_attention_mask: torch.Tensor | None = None,
        panel_gene_ids: torch.Tensor | None = None,
        cell_panel_index: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        r"""
        Args:
            cell_gene_ids (`torch.LongTensor` of shape `(C, G)`):
                Gene tokens, `<cls>` first.
            cell_values (`torch.FloatTensor` of shape `(C, G)`):
                Encoded expression; -2 at `<cls>` and padding, -1 where masked.
            cell_attention_mask (`torch.LongTensor` of shape `(C, G)`, *optional*):
                1 for real tokens, 0 for padding; all real when absent.
            panel_gene_ids (`torch.LongTensor` of shape `(P, M)`, *optional*):
                Genes measured, padded with the `<pad>` gene. Read with `use_panel_embedding` only.
            cell_panel_index (`torch.LongTensor` of shape `(C,)`, *optional*):
                Row of `panel_gene_ids` of each cell; the first row when absent.

        Raises:
            `ValueError`: when the panel is missing and the configuration asks for its summary.
        """
        hidden_states = self.embeddings(cell_gene_ids, cell_values)
        if self.config.use_panel_embedding:
            if panel_gene_ids is None:
                raise ValueError(
                    "`panel_gene_ids` is missing, and this model was configured with use_panel_embedding=True. "
                    "Pass every tensor that the processor returns for the cells."
                )
            panel_mask = self.panel_mask(panel_gene_ids, cell_panel_index)
            summary = self._summarise(cell_gene_ids, cell_values, panel_mask)
            is_cls = torch.arange(hidden_states.shape[1], device=hidden_states.device) == 0
            hidden_states = hidden_states + is_cls[:, None] * summary[:, None]
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=cell_attention_mask
        )
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        hidden_states = self.final_norm(hidden_states)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


# ----------------------------------------------------------------------------------------------- projectors


def _qformer_model(config: Blip2QFormerConfig) -> Blip2QFormerModel:
    """The Q-Former of transformers, which has no FlashAttention path: where that is asked for, it takes sdpa."""
    if (config._attn_implementation or "").startswith("flash_attention"):
        config._attn_implementation = "sdpa"
    return Blip2QFormerModel._from_config(config)


class ScMMGPTQFormer(nn.Module):
    """The cell -> text projector (Li et al. 2023): query tokens that read gene states, and a text tower that
    shares their self-attention."""

    def __init__(self, config: ScMMGPTConfig) -> None:
        super().__init__()
        qformer_config = config.qformer_config
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_cell_tokens, qformer_config.hidden_size))
        # Each query starts from the state of the whole cell, so that it need not be found among hundreds of genes.
        self.state_proj = nn.Linear(qformer_config.encoder_hidden_size, qformer_config.hidden_size)
        self.text_embeddings = Blip2TextEmbeddings(qformer_config)
        self.qformer = _qformer_model(qformer_config)

    def _queries(self, cell_states: torch.Tensor) -> torch.Tensor:
        """`(C, G, D)` gene states -> `(C, Q, D')` queries."""
        return self.query_tokens + self.state_proj(cell_states[:, :1])

    def _embed_text(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, query: torch.Tensor | None = None
    ) -> torch.Tensor:
        _check_length("input_ids", input_ids, self.qformer.config.max_position_embeddings)
        position_ids = (attention_mask.cumsum(-1) - 1).clamp(min=0)  # the same text, padded left or right
        return self.text_embeddings(input_ids=input_ids, position_ids=position_ids, query_embeds=query)

    def encode_cells(self, cell_states: torch.Tensor, cell_attention_mask: torch.Tensor) -> torch.Tensor:
        """`(C, G, D)` gene states, `(C, G)` mask -> `(C, Q, D')` query states."""
        return self.qformer(
            query_embeds=self._queries(cell_states),
            encoder_hidden_states=cell_states,
            encoder_attention_mask=cell_attention_mask,
        ).last_hidden_state

    def encode_text(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """`(B, T)` ids and mask -> `(B, D')`: mean text state over the real tokens."""
        states = self.qformer(
            query_embeds=self._embed_text(input_ids, attention_mask), query_length=0, attention_mask=attention_mask
        ).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        return (states * weights).sum(1) / weights.sum(1).clamp(min=1)

    def encode_pairs(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        cell_states: torch.Tensor,
        cell_attention_mask: torch.Tensor,
    ) -> torch.Tensor:
        """Row-aligned texts `(C, T)` and cells `(C, G, D)` -> `(C, Q, D')` query states that have read both."""
        query = self._queries(cell_states)
        num_queries = query.shape[1]
        # The Q-Former would make this mask for queries and text together, but only the queries read the cell.
        cross_mask = create_bidirectional_mask(
            config=self.qformer.config,
            inputs_embeds=query,
            attention_mask=cell_attention_mask,
            encoder_hidden_states=cell_states,
        )
        return self.qformer(
            query_embeds=self._embed_text(input_ids, attention_mask, query),
            query_length=num_queries,
            attention_mask=torch.cat([attention_mask.new_ones(query.shape[:2]), attention_mask], dim=1),
            encoder_hidden_states=cell_states,
            encoder_attention_mask=cross_mask,
        ).last_hidden_state[:, :num_queries]


class ScMMGPTTextProjector(nn.Module):
    """The text -> cell projector: query tokens that cross-attend to the text model's last hidden states."""

    def __init__(self, config: ScMMGPTConfig) -> None:
        super().__init__()
        projector_config = config.text_projector_config
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_condition_tokens, projector_config.hidden_size))
        self.resampler = _qformer_model(projector_config)

    def forward(self, text_states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """`(B, T, D)` text states, `(B, T)` mask -> `(B, K, D')` condition tokens."""
        return self.resampler(
            query_embeds=self.query_tokens.expand(text_states.shape[0], -1, -1),
            encoder_hidden_states=text_states,
            encoder_attention_mask=attention_mask,
        ).last_hidden_state


class ScMMGPTContrastiveHead(nn.Module):
    """One space for cells and texts (Radford et al. 2021); the temperature is learnt."""

    initial_logit_scale = 2.6592  # log(1 / 0.07), CLIP's start

    def __init__(self, config: ScMMGPTConfig) -> None:
        super().__init__()
        self.cell_proj = nn.Linear(config.qformer_config.hidden_size, config.contrastive_size)
        self.text_proj = nn.Linear(config.qformer_config.hidden_size, config.contrastive_size)
        self.logit_scale = nn.Parameter(torch.tensor(self.initial_logit_scale))

    def embed_cells(self, query_states: torch.Tensor) -> torch.Tensor:
        """`(C, Q, D')` -> `(C, E)`, unit length."""
        return F.normalize(self.cell_proj(query_states.mean(1)), dim=-1)

    def embed_text(self, text_states: torch.Tensor) -> torch.Tensor:
        """`(B, D')` -> `(B, E)`, unit length."""
        return F.normalize(self.text_proj(text_states), dim=-1)

    def similarity(self, cell_embeds: torch.Tensor, text_embeds: torch.Tensor) -> torch.Tensor:
        """`(C, E)`, `(B, E)` -> `(C, B)` cosine similarities over the temperature, which is kept above 0.01."""
        return cell_embeds @ text_embeds.T * self.logit_scale.exp().clamp(max=100.0)


# ---------------------------------------------------------------------------------------------- expression


class ScMMGPTValueHead(nn.Module):
    """Encoded expression of each gene token from its state: scGPT's expression decoder."""

    def __init__(self, config: ScMMGPTCellConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.hidden_size)
        self.fc3 = nn.Linear(config.hidden_size, 1)

    def forward(self, gene_states: torch.Tensor) -> torch.Tensor:
        """`(C, G, D)` -> `(C, G)`."""
        hidden_states = F.leaky_relu(self.fc1(gene_states))
        return self.fc3(F.leaky_relu(self.fc2(hidden_states))).squeeze(-1)


class ScMMGPTExpressionHead(nn.Module):
    """
    Cell latent -> expression of any gene: logit_g = q(e_g) . u(z) + b_g, with q(e) = W sigmoid(Q e), the
    inner-product decoder of scGPT's MVC objective. Softmax over the genes an assay measured gives proportions.
    """

    def __init__(self, config: ScMMGPTConfig) -> None:
        super().__init__()
        hidden_size = config.cell_config.hidden_size
        self.to_latent = nn.Linear(hidden_size, config.latent_size)
        self.gene_query = nn.Linear(hidden_size, hidden_size)
        self.query_proj = nn.Linear(hidden_size, hidden_size, bias=False)
        self.latent_in = nn.Linear(config.latent_size, hidden_size)
        self.latent_out = nn.Linear(hidden_size, hidden_size)
        self.gene_bias = nn.Parameter(torch.zeros(config.cell_config.vocab_size))

    def encode(self, cell_state: torch.Tensor) -> torch.Tensor:
        """`(C, D)` state of `<cls>` -> `(C, Z)` latent of zero mean and unit scale."""
        latent = self.to_latent(cell_state)
        return F.layer_norm(latent, latent.shape[-1:])

    def forward(self, latents: torch.Tensor, gene_embeds: torch.Tensor) -> torch.Tensor:
        """`(C, Z)` latents, `(V, D)` normalised gene embeddings -> `(C, V)` float32 logits."""
        queries = self.query_proj(torch.sigmoid(self.gene_query(gene_embeds)))
        state = self.latent_out(F.gelu(self.latent_in(latents)))
        return (state @ queries.T).float() + self.gene_bias.float()


# ---------------------------------------------------------------------------------------------------- model


def _check_length(name: str, texts: torch.Tensor | None, longest: int | None) -> None:
    if texts is not None and longest is not None and texts.shape[1] > longest:
        raise ValueError(
            f"`{name}` has {texts.shape[1]} tokens; the model reads at most {longest}. Shorten the text, or "
            f"tokenise it with truncation=True, max_length={longest}."
        )


def _draw_negatives(similarity: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """One column per row of the `(C, C)` similarities, the likelier the more similar, never a positive."""
    weights = similarity.detach().float().softmax(1) + 1e-8
    weights = weights.masked_fill(positives & ~positives.all(1, keepdim=True), 0.0)
    return torch.multinomial(weights, 1).squeeze(1)


class ScMMGPTForConditionalGeneration(ScMMGPTPreTrainedModel, ScMMGPTGenerationMixin):
    """Cells and text in, text or cells out. See the configuration for the parts."""

    main_input_name = "input_ids"
    # The parts are means over cells: the Trainer is to divide their sum by the accumulation steps, not the language
    # part alone by the tokens of all steps.
    accepts_loss_kwargs = False
    _keep_in_fp32_modules_strict = ["target_mean", "target_std"]  # a library size in bfloat16 is 2 % off

    def __init__(self, config: ScMMGPTConfig) -> None:
        super().__init__(config)
        self.cell_model = ScMMGPTCellModel._from_config(config.cell_config)
        self.value_head = ScMMGPTValueHead(config.cell_config)
        self.expression_head = ScMMGPTExpressionHead(config)
        self.qformer = ScMMGPTQFormer(config)
        self.contrastive_head = ScMMGPTContrastiveHead(config)
        self.matching_head = nn.Linear(config.qformer_config.hidden_size, 2)
        self.cell_projector = nn.Linear(config.qformer_config.hidden_size, config.text_config.hidden_size)
        self.language_model = AutoModelForCausalLM.from_config(config.text_config)
        self.text_projector = ScMMGPTTextProjector(config)
        self.cell_generator = ScMMGPTCellGenerator(config)
        self.post_init()
        # A placeholder that the model wrote itself would ask for a cell that is not there.
        self.generation_config.suppress_tokens = [config.cell_token_id]

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs) -> "ScMMGPTForConditionalGeneration":
        """
        As in transformers. Of a `device_map`, only `language_model` may be split or offloaded, else it is a
        `ValueError`: accelerate moves weights as modules are called, but the other parts read each other's weights.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        device_map = getattr(loaded[0] if isinstance(loaded, tuple) else loaded, "hf_device_map", None) or {}
        devices = {str(device) for name, device in device_map.items() if not name.startswith("language_model")}
        if len(devices) > 1 or "disk" in devices:
            raise ValueError(
                f"`device_map` puts the parts around `language_model` on {sorted(devices)}; they have to share one "
                "device and cannot be offloaded. Map all of them to one, and only parts of `language_model` elsewhere."
            )
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs) -> None:
        """As in transformers, and every Auto class is told where the code is, not only the registered one."""
        if self._auto_class is not None:
            module, name = type(self).__module__.rsplit(".", 1)[-1], type(self).__name__
            own_entries = dict.fromkeys(AUTO_CLASSES, f"{module}.{name}")
            self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | own_entries
        super().save_pretrained(save_directory, **kwargs)

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.language_model.get_output_embeddings()

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.language_model.set_output_embeddings(new_embeddings)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, **kwargs) -> nn.Embedding:
        """Resizes the text model's vocabulary and, with it, the text tower that reads the same tokens."""
        embeddings = super().resize_token_embeddings(new_num_tokens, **kwargs)
        tower = self.qformer.text_embeddings
        tower.word_embeddings = self._get_resized_embeddings(tower.word_embeddings, embeddings.num_embeddings)
        self.config.qformer_config.vocab_size = embeddings.num_embeddings
        return embeddings

    # ------------------------------------------------------------------------------------------- features

    def _encode_cells(
        self,
        cell_gene_ids: torch.Tensor,
        cell_values: torch.Tensor,
        cell_attention_mask: torch.Tensor | None,
        panel_gene_ids: torch.Tensor | None,
        cell_panel_index: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gene states `(C, G, D)` and the mask `(C, G)` they were computed with."""
        if cell_attention_mask is None:
            cell_attention_mask = torch.ones_like(cell_gene_ids)
        states = self.cell_model(
            cell_gene_ids,
            cell_values,
            cell_attention_mask=cell_attention_mask,
            panel_gene_ids=panel_gene_ids,
            cell_panel_index=cell_panel_index,
        ).last_hidden_state
        return states, cell_attention_mask

    def get_cell_features(
        self,
        cell_gene_ids: torch.Tensor,
        cell_values: torch.Tensor,
        cell_attention_mask: torch.Tensor | None = None,
        panel_gene_ids: torch.Tensor | None = None,
        cell_panel_index: torch.Tensor | None = None,
    ) -> BaseModelOutputWithPooling:
        """
        Cells as the text model sees them. Arguments and errors as in [`ScMMGPTCellModel.forward`].

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` `(C, G, D)`, the gene states, and `pooler_output`
            `(C, Q, text width)`, the cell tokens.
        """
        states, mask = self._encode_cells(
            cell_gene_ids, cell_values, cell_attention_mask, panel_gene_ids, cell_panel_index
        )
        cell_tokens = self.cell_projector(self.qformer.encode_cells(states, mask))
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=cell_tokens)

    def get_cell_embeddings(
        self,
        cell_gene_ids: torch.Tensor,
        cell_values: torch.Tensor,
        cell_attention_mask: torch.Tensor | None = None,
        panel_gene_ids: torch.Tensor | None = None,
        cell_panel_index: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """
        Cells in the space shared with texts. Arguments and errors as in [`ScMMGPTCellModel.forward`].

        Returns:
            `torch.Tensor` of shape `(C, contrastive_size)`: unit length; the inner product with
            [`get_text_embeddings`] is their cosine similarity.
        """
        states, mask = self._encode_cells(
            cell_gene_ids, cell_values, cell_attention_mask, panel_gene_ids, cell_panel_index
        )
        return self.contrastive_head.embed_cells(self.qformer.encode_cells(states, mask))

    def get_text_embeddings(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Texts in the space shared with cells.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): text tokens without cell placeholders.
            attention_mask (`torch.LongTensor` of shape `(B, T)`, *optional*): 1 for real tokens.

        Returns:
            `torch.Tensor` of shape `(B, contrastive_size)`: unit length.

        Raises:
            `ValueError`: when a text is longer than the text tower reads.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        return self.contrastive_head.embed_text(self.qformer.encode_text(input_ids, attention_mask))

    def get_condition_tokens(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        What the cell generator is told. Padding on either side changes nothing.

        Args:
            input_ids (`torch.LongTensor` of shape `(B, T)`): prompts without cell placeholders.
            attention_mask (`torch.LongTensor` of shape `(B, T)`, *optional*): 1 for real tokens.

        Returns:
            `torch.Tensor` of shape `(B, K, D')`: condition tokens.

        Raises:
            `ValueError`: when a prompt is longer than the text model reads.
        """
        _check_length("input_ids", input_ids, self._longest_text)
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        # Padding moves to the right, where a causal model cannot see it, whatever its positions are made of.
        order = attention_mask.argsort(dim=-1, descending=True, stable=True)
        input_ids, attention_mask = input_ids.gather(1, order), attention_mask.gather(1, order)
        states = self.language_model.base_model(
            input_ids=input_ids, attention_mask=attention_mask, use_cache=False
        ).last_hidden_state
        return self.text_projector(states, attention_mask)

    @property
    def _longest_text(self) -> int | None:
        return getattr(self.config.text_config, "max_position_embeddings", None)  # some architectures have no bound

    def _merge_cells(
        self, placeholders: torch.Tensor, inputs_embeds: torch.Tensor, cell_tokens: torch.Tensor
    ) -> torch.Tensor:
        """Puts the `(C, Q, D)` cell tokens where the placeholders stand, in reading order."""
        self._check_placeholders(placeholders, len(cell_tokens))
        mask = placeholders.unsqueeze(-1).expand_as(inputs_embeds)
        return inputs_embeds.masked_scatter(mask, cell_tokens.to(inputs_embeds.device, inputs_embeds.dtype))

    # --------------------------------------------------------------------------------------------- losses

    def _contrastive_loss(self, similarity: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
        """InfoNCE both ways over cells x texts; the bool positives of a cell or text share its target evenly."""
        target = positives.float()
        by_cell = F.cross_entropy(similarity.float(), target / target.sum(1, keepdim=True))
        by_text = F.cross_entropy(similarity.float().T, (target / target.sum(0, keepdim=True)).T)
        return 0.5 * (by_cell + by_text)

    def _matching_loss(
        self,
        similarity: torch.Tensor,
        positives: torch.Tensor,
        description_input_ids: torch.Tensor,
        description_attention_mask: torch.Tensor,
        states: torch.Tensor,
        mask: torch.Tensor,
    ) -> torch.Tensor:
        """Does the text describe the cell? Negatives are drawn by similarity among those that are not true."""
        wrong_text = _draw_negatives(similarity, positives)
        wrong_cell = _draw_negatives(similarity.T, positives.T)
        # A cell of which every text is true, or a text that is true of every cell, has none: it weighs nothing.
        has_wrong_text, has_wrong_cell = ~positives.all(1), ~positives.all(0)
        own = torch.arange(len(states), device=states.device)
        texts, cells = torch.cat([own, wrong_text, own]), torch.cat([own, own, wrong_cell])
        query_states = self.qformer.encode_pairs(
            description_input_ids[texts], description_attention_mask[texts], states[cells], mask[cells]
        )
        logits = self.matching_head(query_states.mean(1)).float()
        labels = torch.cat([torch.ones_like(own), torch.zeros_like(own), torch.zeros_like(own)])
        row_weights = torch.cat([torch.ones_like(own).bool(), has_wrong_text, has_wrong_cell]).float()
        losses = F.cross_entropy(logits, labels, reduction="none")
        return (losses * row_weights).sum() / row_weights.sum()

    def _description_losses(
        self,
        states: torch.Tensor,
        mask: torch.Tensor,
        query_states: torch.Tensor,
        description_input_ids: torch.Tensor,
        description_attention_mask: torch.Tensor | None,
        description_is_true: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        if description_attention_mask is None:
            description_attention_mask = torch.ones_like(description_input_ids)
        masked_ids = description_input_ids.masked_fill(description_attention_mask == 0, -1)
        is_true = (masked_ids[:, None] == masked_ids[None]).all(-1)  # a text is true of whatever it was written for
        if description_is_true is not None:
            is_true = is_true | description_is_true
        positives = is_true.T  # cells x texts, as the similarity
        similarity = self.contrastive_head.similarity(
            self.contrastive_head.embed_cells(query_states),
            self.get_text_embeddings(description_input_ids, description_attention_mask),
        )
        return {
            "contrastive_loss": self._contrastive_loss(similarity, positives),
            "matching_loss": self._matching_loss(
                similarity, positives, description_input_ids, description_attention_mask, states, mask
            ),
        }

    def panel_mask(
        self, panel_gene_ids: torch.Tensor | None = None, cell_panel_index: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        Which genes were measured, per cell.

        Args:
            panel_gene_ids (`torch.LongTensor` of shape `(P, M)`, *optional*): panels; when absent, one panel of every
                gene that the model was trained on.
            cell_panel_index (`torch.LongTensor` of shape `(C,)`, *optional*): the panel of each cell; the first when
                absent.

        Returns:
            `torch.BoolTensor` of shape `(C, V)`, or `(1, V)` where all cells share one panel.
        """
        if panel_gene_ids is None:
            return self.cell_model.gene_profile[None] > 0
        return self.cell_model.panel_mask(panel_gene_ids, cell_panel_index)

    def expression_log_probs(self, latents: torch.Tensor, panel_mask: torch.Tensor) -> torch.Tensor:
        """`(C, Z)` latents and `(C or 1, V)` measured genes -> `(C, V)` float32 log proportions, -inf elsewhere."""
        gene_embeds = self.cell_model.embeddings.gene_norm(self.cell_model.embeddings.gene_embeddings.weight)
        logits = self.expression_head(latents, gene_embeds)
        return logits.masked_fill(~panel_mask, float("-inf")).log_softmax(-1)

    def _reconstruction_loss(
        self,
        latents: torch.Tensor,
        panel_mask: torch.Tensor,
        target_gene_ids: torch.Tensor,
        target_counts: torch.Tensor,
    ) -> torch.Tensor:
        log_probs = self.expression_log_probs(latents, panel_mask).gather(1, target_gene_ids)
        log_probs = log_probs.masked_fill(target_counts == 0, 0.0)
        totals = target_counts.sum(-1).clamp(min=1)
        return (-(target_counts * log_probs).sum(-1) / totals).mean()

    def _masked_expression_loss(self, states: torch.Tensor, cell_value_labels: torch.Tensor) -> torch.Tensor:
        masked = cell_value_labels != IGNORE_VALUE
        errors = (self.value_head(states).float() - cell_value_labels) ** 2
        return (errors * masked).sum() / masked.sum().clamp(min=1)

    def log_library_size(self, target_counts: torch.Tensor, panel_mask: torch.Tensor) -> torch.Tensor:
        """
        Log of the counts a cell would show if its panel covered the whole typical transcriptome.

        Args:
            target_counts (`torch.FloatTensor` of shape `(C, N)`): the cell's counts over its panel.
            panel_mask (`torch.BoolTensor` of shape `(C or 1, V)`): the genes of the panel.

        Returns:
            `torch.FloatTensor` of shape `(C,)`.
        """
        totals = target_counts.sum(-1).clamp(min=1).float()
        return totals.log() - self.cell_model.panel_share(panel_mask).log()

    def flow_target(
        self, latents: torch.Tensor, target_counts: torch.Tensor, panel_mask: torch.Tensor
    ) -> torch.Tensor:
        """`(C, Z + 1)` float32: what the cell generator learns to draw, a latent and its log library size."""
        log_library = self.log_library_size(target_counts, panel_mask)
        return torch.cat([latents.float(), log_library[:, None]], dim=-1)

    def _cell_losses(
        self,
        states: torch.Tensor,
        latents: torch.Tensor,
        panel_mask: torch.Tensor,
        cell_value_labels: torch.Tensor | None,
        target_gene_ids: torch.Tensor | None,
        target_counts: torch.Tensor | None,
        condition: torch.Tensor | None,
    ) -> dict[str, torch.Tensor]:
        """Losses that need no text model: masked expression, reconstruction, and the flow given its condition."""
        losses = {}
        if cell_value_labels is not None:
            losses["masked_expression_loss"] = self._masked_expression_loss(states, cell_value_labels)
        if target_counts is not None:
            losses["cell_reconstruction_loss"] = self._reconstruction_loss(
                latents, panel_mask, target_gene_ids, target_counts
            )
            if condition is not None:
                target = self.flow_target(latents, target_counts, panel_mask)
                losses["flow_loss"] = self.cell_generator(target, condition)
        return losses

    # -------------------------------------------------------------------------------------------- forward

    def _check_inputs(self, cells: dict[str, Any], targets: dict[str, Any], **others: torch.Tensor | None) -> None:
        """What a loss is computed from comes together, and no text is longer than what reads it."""
        given = {name for name, value in (cells | targets | others).items() if value is not None}
        needs = ((cells, cells), (targets, cells | targets), (others, cells), (["condition_input_ids"], targets))
        for names, needed in needs:
            lonely, missing = [n for n in names if n in given], [n for n in needed if n not in given]
            if lonely and missing:
                raise ValueError(
                    f"`{lonely[0]}` is given without `{missing[0]}`, and is of no use alone. Pass every tensor that "
                    "the processor or the collator returns, or leave this one out."
                )
        longest = self.config.qformer_config.max_position_embeddings
        _check_length("description_input_ids", others["description_input_ids"], longest)
        _check_length("condition_input_ids", others["condition_input_ids"], self._longest_text)

    def _text_outputs(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        cell_tokens: torch.Tensor | None,
        **kwargs,
    ) -> dict[str, Any]:
        """What the text model returns, given the `(C, Q, D)` cell tokens in their places."""
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        _check_length("input_ids", inputs_embeds, self._longest_text)
        if cell_tokens is not None:
            placeholders = self._placeholders(input_ids, inputs_embeds)
            inputs_embeds = self._merge_cells(placeholders, inputs_embeds, cell_tokens)
        outputs = self.language_model(inputs_embeds=inputs_embeds, **kwargs)
        losses = {} if outputs.loss is None else {"language_loss": outputs.loss}
        return losses | {n: outputs.get(n) for n in ("logits", "past_key_values", "hidden_states", "attentions")}

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        cell_gene_ids: torch.Tensor | None = None,
        cell_values: torch.Tensor | None = None,
        cell_attention_mask: torch.Tensor | None = None,
        panel_gene_ids: torch.Tensor | None = None,
        cell_panel_index: torch.Tensor | None = None,
        target_gene_ids: torch.Tensor | None = None,
        target_counts: torch.Tensor | None = None,
        cell_value_labels: torch.Tensor | None = None,
        description_input_ids: torch.Tensor | None = None,
        description_attention_mask: torch.Tensor | None = None,
        description_is_true: torch.Tensor | None = None,
        condition_input_ids: torch.Tensor | None = None,
        condition_attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ScMMGPTOutput:
        r"""
        Runs the parts that the inputs call for, and returns each loss whose inputs are there.

        Args:
            input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, labels, use_cache, logits_to_keep:
                The text model's inputs, as everywhere in transformers; `input_ids` holds `num_cell_tokens`
                placeholders per cell. `labels` give `language_loss`.
            cell_gene_ids, cell_values, cell_attention_mask, panel_gene_ids, cell_panel_index:
                The cells; see [`ScMMGPTCellModel.forward`].
            target_gene_ids, target_counts (`torch.Tensor` of shape `(C, N)`, int64 and float32, *optional*):
                All expressed genes of each cell, padded, and their raw counts, 0 at padding, for
                `cell_reconstruction_loss`. Genes of the panel only: the loss of a count elsewhere is infinite.
            cell_value_labels (`torch.FloatTensor` of shape `(C, G)`, *optional*):
                True values of masked tokens, -100 elsewhere: `masked_expression_loss`.
            description_input_ids, description_attention_mask (`torch.LongTensor` of shape `(C, L)`, *optional*):
                One text per cell: `contrastive_loss` and `matching_loss`.
            description_is_true (`torch.BoolTensor` of shape `(C, C)`, *optional*):
                Whether all that a text (row) says is true of a cell (column): no such pair is a negative. A text is
                true of its own cell alone when absent.
            condition_input_ids, condition_attention_mask (`torch.LongTensor` of shape `(C, L)`, *optional*):
                One prompt per cell; with the targets: `flow_loss`.

        Raises:
            `ValueError`: when inputs that go together are not all there, a text is too long for what reads it, or
            placeholders and cells do not agree in number.
        """
        cells = {"cell_gene_ids": cell_gene_ids, "cell_values": cell_values}
        targets = {"target_gene_ids": target_gene_ids, "target_counts": target_counts}
        texts = {"description_input_ids": description_input_ids, "condition_input_ids": condition_input_ids}
        self._check_inputs(cells, targets, cell_value_labels=cell_value_labels, **texts)
        outputs, cell_tokens = {}, None
        text_given = input_ids is not None or inputs_embeds is not None
        if cell_gene_ids is not None:
            panels = (panel_gene_ids, cell_panel_index)
            states, mask = self._encode_cells(cell_gene_ids, cell_values, cell_attention_mask, *panels)
            outputs = {"cell_hidden_states": states, "cell_latents": self.expression_head.encode(states[:, 0])}
            condition = None
            if condition_input_ids is not None:
                condition = self.get_condition_tokens(condition_input_ids, condition_attention_mask)
            to_learn = (cell_value_labels, target_gene_ids, target_counts)
            outputs |= self._cell_losses(*outputs.values(), self.panel_mask(*panels), *to_learn, condition)
            if text_given or description_input_ids is not None:
                query_states = self.qformer.encode_cells(states, mask)
                cell_tokens = self.cell_projector(query_states) if text_given else None
            if description_input_ids is not None:
                descriptions = (description_input_ids, description_attention_mask, description_is_true)
                outputs |= self._description_losses(states, mask, query_states, *descriptions)
        if text_given:
            kwargs |= {"attention_mask": attention_mask, "position_ids": position_ids, "labels": labels}
            kwargs |= {"past_key_values": past_key_values, "use_cache": use_cache, "logits_to_keep": logits_to_keep}
            outputs |= self._text_outputs(input_ids, inputs_embeds, cell_tokens, **kwargs)
        losses = [value for name, value in outputs.items() if name.endswith("_loss")]
        return ScMMGPTOutput(loss=sum(losses) if losses else None, **outputs)


__all__ = ["ScMMGPTCellModel", "ScMMGPTForConditionalGeneration", "ScMMGPTOutput", "ScMMGPTPreTrainedModel"]
