"""A tiny scMMGPT, its processor and its inputs, for every test that needs a whole model in milliseconds."""

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import CONFIG_MAPPING, PreTrainedTokenizerFast

from scmmgpt import (
    ScMMGPTCellConfig,
    ScMMGPTConfig,
    ScMMGPTFeatureExtractor,
    ScMMGPTForConditionalGeneration,
    ScMMGPTProcessor,
)

GENES = [f"GENE{i}" for i in range(60)]
PAD_GENE, CLS_GENE = 60, 61  # as `ScMMGPTFeatureExtractor.from_genes` numbers them
EOC_GENE = 62  # as in a vocabulary of scGPT, which has one token more
SENTENCE = "a the cell is of type describe this : . T B monocyte naive human blood lung young with little some more"
WORDS = ["<unk>", "<pad>", "<s>", "</s>", "<cell>", *SENTENCE.split()]
PAD, BOS, EOS, CELL = 1, 2, 3, 4
NUM_CELL_TOKENS = 3
CELL_FIELDS = ("cell_gene_ids", "cell_values", "cell_attention_mask", "panel_gene_ids", "cell_panel_index")

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
# At this width the usual 0.02 would make all texts, and all cells, look the same to what comes after.
_INIT = {"initializer_range": 0.15}
_QFORMER = _SIZES | _INIT | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
_TEXT = {
    "llama": _SIZES | {"num_key_value_heads": 2},
    "qwen3": _SIZES | {"num_key_value_heads": 2, "head_dim": 8},
    "gemma2": _SIZES | {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
}


def make_cell_config(**changes) -> ScMMGPTCellConfig:
    """Two layers of width 32 without dropout, over `GENES`."""
    settings = {"hidden_dropout_prob": 0.0, "attention_dropout": 0.0, "vocab_size": len(GENES) + 3}
    settings |= {"pad_token_id": PAD_GENE, "cls_token_id": CLS_GENE, "eoc_token_id": EOC_GENE}
    settings |= {"use_panel_embedding": True}
    return ScMMGPTCellConfig(**_SIZES | settings | changes)


def make_config(text: str = "llama", cell: dict | None = None, tied: bool = False, **changes) -> ScMMGPTConfig:
    """A configuration with every part present, and no dropout but that of the condition."""
    text_config = CONFIG_MAPPING[text](
        **_TEXT[text],
        **_INIT,
        vocab_size=len(WORDS),
        max_position_embeddings=128,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=tied,
    )
    settings = {
        "cell_config": make_cell_config(**cell or {}),
        "qformer_config": _QFORMER | {"max_position_embeddings": 64},
        "text_projector_config": _QFORMER | {"num_hidden_layers": 1},
        "text_config": text_config,
        "num_cell_tokens": NUM_CELL_TOKENS,
        "num_condition_tokens": 2,
        "latent_size": 8,
        "generator_hidden_size": 32,
        "generator_num_layers": 2,
        "contrastive_size": 16,
        "cell_token_id": CELL,
        "tie_word_embeddings": tied,
    } | _INIT
    return ScMMGPTConfig(**settings | changes)


def make_model(**changes) -> ScMMGPTForConditionalGeneration:
    """
    A random model in eval mode. Everything that starts at zero is moved away from it, so that no path is hidden
    behind a closed gate.
    """
    torch.manual_seed(0)
    model = ScMMGPTForConditionalGeneration(make_config(**changes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any() or (parameter == 1).all():
                parameter += 0.2 * torch.randn_like(parameter)
        profile = torch.rand(len(GENES))
        model.cell_model.gene_profile[: len(GENES)] = profile / profile.sum()
        model.cell_model.gene_profile[len(GENES) :] = 0.0
        model.cell_generator.target_mean[-1] = 5.0
    return model


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of `WORDS`."""
    model = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="left",
    )
    tokenizer.add_tokens([AddedToken("<cell>", special=True)])
    return tokenizer


def make_processor() -> ScMMGPTProcessor:
    """The processor that goes with `make_model`."""
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES)
    return ScMMGPTProcessor(extractor, make_tokenizer(), num_cell_tokens=NUM_CELL_TOKENS)


def make_counts(num_cells: int, seed: int = 0) -> np.ndarray:
    """`(num_cells, len(GENES))` counts; each cell has its own number of expressed genes, and at least one."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rng.gamma(0.5, 4.0, size=(num_cells, len(GENES))))
    counts[:, 0] += 1
    return counts


def make_cells(num_cells: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """Model inputs of random cells with their targets, of two panels when there is more than one cell."""
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES)
    counts = make_counts(num_cells, seed)
    counts[1::2, 40:] = 0  # the second panel ends at gene 39
    inputs = dict(extractor(counts, gene_names=GENES, return_targets=True))
    short = torch.full((60,), PAD_GENE)
    short[:40] = torch.arange(40)
    inputs["panel_gene_ids"] = torch.stack([torch.arange(60), short])
    inputs["cell_panel_index"] = torch.arange(num_cells) % 2
    return inputs


def make_texts(num_texts: int = 3, seed: int = 0, length: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Random text ids `(B, T)` of unequal lengths, padded on the right, and their mask."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, len(WORDS), (num_texts, length), generator=generator)
    lengths = torch.tensor([length - i % 4 for i in range(num_texts)])
    mask = (torch.arange(length) < lengths[:, None]).long()
    return ids.masked_fill(mask == 0, PAD), mask


def make_batch(num_cells: int = 3, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch that asks for all six losses: one text with one cell per row, a description and a condition."""
    batch = make_cells(num_cells, seed)
    generator = torch.Generator().manual_seed(seed)
    masked = (torch.rand(batch["cell_values"].shape, generator=generator) < 0.3) & (batch["cell_attention_mask"] == 1)
    masked[:, 0], masked[:, 1] = False, True
    batch["cell_value_labels"] = torch.where(masked, batch["cell_values"], -100.0)
    batch["cell_values"] = torch.where(masked, -1.0, batch["cell_values"])
    text_ids, text_mask = make_texts(num_cells, seed)
    prefix = torch.tensor([BOS] + [CELL] * NUM_CELL_TOKENS).expand(num_cells, -1)
    batch["input_ids"] = torch.cat([prefix, text_ids], dim=1)
    batch["attention_mask"] = torch.cat([torch.ones_like(prefix), text_mask], dim=1)
    batch["labels"] = torch.cat([torch.full_like(prefix, -100), text_ids.masked_fill(text_mask == 0, -100)], dim=1)
    batch["description_input_ids"], batch["description_attention_mask"] = make_texts(num_cells, seed + 1)
    batch["description_is_true"] = torch.eye(num_cells, dtype=torch.bool)
    batch["condition_input_ids"], batch["condition_attention_mask"] = make_texts(num_cells, seed + 2)
    return batch
