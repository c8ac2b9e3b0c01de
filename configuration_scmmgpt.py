"""Architecture of scMMGPT: the cell encoder, the two projectors, the text model and the cell generator.

Holds architecture only: no learning rate, loss weight, prompt or path belongs here. Remote code: imports
nothing but transformers.
"""

from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, Blip2QFormerConfig, PreTrainedConfig

# Label of an expression value that is not to be learnt; model and data share it.
IGNORE_VALUE = -100.0


def _check_heads(name: str, hidden_size: int, num_attention_heads: int) -> None:
    if hidden_size % num_attention_heads:
        raise ValueError(
            f"`{name}`: hidden_size={hidden_size} is not divisible by num_attention_heads={num_attention_heads}. "
            "Choose a hidden size that is a multiple of the number of heads."
        )


class ScMMGPTCellConfig(PreTrainedConfig):
    r"""
    Configuration of the cell encoder. The defaults are the architecture of scGPT's whole-human checkpoint
    (Cui et al. 2024), so that its weights can be loaded unchanged.

    Args:
        vocab_size (`int`):
            Number of gene tokens, special tokens included.
        hidden_size (`int`):
            Width of the gene states.
        num_hidden_layers (`int`):
            Number of transformer layers.
        num_attention_heads (`int`):
            Attention heads per layer.
        intermediate_size (`int`):
            Width of the feed-forward layers.
        hidden_act (`str`):
            Activation of the feed-forward layers.
        hidden_dropout_prob (`float`):
            Dropout after the embedding, attention and feed-forward blocks.
        attention_dropout (`float`):
            Dropout of the attention weights.
        norm_first (`bool`):
            `False` normalises after each residual sum (scGPT); `True` before each block, with a final norm.
        layer_norm_eps (`float`):
            Epsilon of every LayerNorm.
        max_value (`float`):
            Encoded expression values are cut here before they are embedded.
        use_panel_embedding (`bool`):
            Adds a summary of the measured genes to the `<cls>` token, so that "not measured" differs from "not
            expressed", and of how the cell departs from what is typical there. Off for exact scGPT.
        panel_embedding_size (`int`):
            Width of the gene embeddings that the panel summary is made of. They are its own: a small encoder is too
            narrow to tell cells apart by a sum over all their genes.
        pad_token_id, cls_token_id (`int`):
            Gene tokens of padding and of the cell state.
        eoc_token_id (`int`, *optional*):
            scGPT's `<eoc>` (60696 in its whole-human vocabulary), which is no gene; `None` where the vocabulary has
            none.
        initializer_range (`float`):
            Standard deviation of the initial weights.
    """

    model_type = "scmmgpt_cell"
    base_config_key = "cell_config"
    _auto_class = "AutoConfig"  # saved from inside a whole model that was loaded as remote code, it keeps its code too

    vocab_size: int = 60697
    hidden_size: int = 512
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    intermediate_size: int = 512
    hidden_act: str = "relu"
    hidden_dropout_prob: float = 0.2
    attention_dropout: float = 0.2
    norm_first: bool = False
    layer_norm_eps: float = 1e-5
    max_value: float = 512.0
    use_panel_embedding: bool = False
    panel_embedding_size: int = 512
    pad_token_id: int = 60694
    cls_token_id: int = 60695
    eoc_token_id: int | None = None
    initializer_range: float = 0.02

    @property
    def special_token_ids(self) -> list[int]:
        """Ids of the tokens that are no genes."""
        ids = (self.pad_token_id, self.cls_token_id, self.eoc_token_id)
        return [token_id for token_id in ids if token_id is not None]

    def __post_init__(self, **kwargs) -> None:
        super().__post_init__(**kwargs)
        _check_heads("cell_config", self.hidden_size, self.num_attention_heads)
        for name in ("pad_token_id", "cls_token_id", "eoc_token_id"):
            token_id = getattr(self, name)
            if not (token_id is None and name == "eoc_token_id") and not 0 <= token_id < self.vocab_size:
                raise ValueError(
                    f"`cell_config.{name}`={token_id} lies outside the gene vocabulary of "
                    f"vocab_size={self.vocab_size}. Set it to the id that the gene vocabulary gives this token."
                )


class ScMMGPTTextProjectorConfig(Blip2QFormerConfig):
    """A Q-Former's configuration that is found under its own key, apart from that of the cell -> text projector."""

    base_config_key = "text_projector_config"


class ScMMGPTConfig(PreTrainedConfig):
    r"""
    Configuration of [`ScMMGPTForConditionalGeneration`].

    Args:
        cell_config (`ScMMGPTCellConfig` or `dict`):
            The cell encoder.
        qformer_config (`Blip2QFormerConfig` or `dict`):
            The cell -> text projector and its text tower. Its vocabulary is the text model's.
        text_config (`PreTrainedConfig` or `dict`):
            Any causal language model of transformers; Llama when no `model_type` is named.
        text_projector_config (`ScMMGPTTextProjectorConfig` or `dict`):
            The text -> cell projector: learnable queries that cross-attend to the text model's last hidden states.
        num_cell_tokens (`int`):
            Soft tokens that stand for one cell in the text model's input (`Q`).
        num_condition_tokens (`int`):
            Condition tokens that carry the text to the cell generator (`K`).
        latent_size (`int`):
            Width of the cell latent (`Z`).
        generator_hidden_size, generator_num_layers (`int`):
            Width and number of blocks of the flow that draws latents.
        condition_dropout (`float`):
            Share of training cells whose condition is dropped, for classifier-free guidance.
        contrastive_size (`int`):
            Width of the space in which cells and texts are compared.
        cell_token_id (`int`):
            The text token that holds a cell's place.
        initializer_range (`float`):
            Standard deviation of the initial weights of what is neither cell encoder nor text model.
    """

    model_type = "scmmgpt"
    sub_configs = {
        "cell_config": ScMMGPTCellConfig,
        "qformer_config": Blip2QFormerConfig,
        "text_config": AutoConfig,
        "text_projector_config": ScMMGPTTextProjectorConfig,
    }
    keys_to_ignore_at_inference = ["past_key_values"]

    cell_config: dict[str, Any] | PreTrainedConfig | None = None
    qformer_config: dict[str, Any] | PreTrainedConfig | None = None
    text_config: dict[str, Any] | PreTrainedConfig | None = None
    text_projector_config: dict[str, Any] | PreTrainedConfig | None = None
    num_cell_tokens: int = 32
    num_condition_tokens: int = 8
    latent_size: int = 64
    generator_hidden_size: int = 512
    generator_num_layers: int = 4
    condition_dropout: float = 0.1
    contrastive_size: int = 256
    cell_token_id: int = 3
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs) -> None:
        self.cell_config = _build(ScMMGPTCellConfig, self.cell_config)
        self.text_config = _build_text(self.text_config)
        self.qformer_config = _build(
            Blip2QFormerConfig,
            self.qformer_config,
            encoder_hidden_size=self.cell_config.hidden_size,
            vocab_size=self.text_config.vocab_size,
            use_qformer_text_input=True,
            # BLIP-2 means 0 here; the tower reads the text model's tokens and is always given a mask.
            pad_token_id=None,
        )
        self.text_projector_config = _build(
            ScMMGPTTextProjectorConfig,
            self.text_projector_config,
            encoder_hidden_size=self.text_config.hidden_size,
            cross_attention_frequency=1,
            vocab_size=1,
        )
        super().__post_init__(**kwargs)
        self._validate()

    def _validate(self) -> None:
        for name in ("qformer_config", "text_projector_config"):
            sub_config = getattr(self, name)
            _check_heads(name, sub_config.hidden_size, sub_config.num_attention_heads)
        for name in ("num_cell_tokens", "num_condition_tokens", "latent_size", "contrastive_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}`={getattr(self, name)}: expected at least 1.")
        if not 0.0 <= self.condition_dropout < 1.0:
            raise ValueError(f"`condition_dropout`={self.condition_dropout}: expected a share in [0, 1).")
        if not 0 <= self.cell_token_id < self.text_config.vocab_size:
            raise ValueError(
                f"`cell_token_id`={self.cell_token_id} lies outside the text model's vocabulary of "
                f"{self.text_config.vocab_size}. Add the `<cell>` token to the tokenizer and resize the embeddings."
            )


def _build(config_class: type, config: dict | PreTrainedConfig | None, **fixed: Any) -> PreTrainedConfig:
    """An instance of `config_class` from a dict or config, with the `fixed` fields that follow from other parts."""
    if config is None:
        config = {}
    if isinstance(config, dict):
        config = config_class(**config)
    for name, value in fixed.items():
        setattr(config, name, value)
    return config


def _build_text(config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(config, PreTrainedConfig):
        return config
    config = dict(config or {})
    model_type = config.pop("model_type", "llama")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"`text_config.model_type`={model_type!r} is not an architecture of the installed transformers. "
            "Upgrade transformers, or choose a causal language model that it has, such as 'llama' or 'qwen3'."
        )
    return CONFIG_MAPPING[model_type](**config)


__all__ = ["ScMMGPTCellConfig", "ScMMGPTConfig", "ScMMGPTTextProjectorConfig"]
