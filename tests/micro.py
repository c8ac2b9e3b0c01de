"""A recipe that runs through every stage of training in seconds, and cells to run it on."""

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import yaml
from scipy import sparse

from .tiny import GENES

TYPES = ("B cell", "NK", "monocyte")
_QFORMER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "cross_attention_frequency": 1,
}


def make_recipe(output_dir: Path, num_steps: int = 3, **changes: Any) -> dict[str, Any]:
    """The recipe as it would be read from YAML."""
    arguments = {
        "max_steps": num_steps,
        "per_device_train_batch_size": 8,
        "learning_rate": 1.0e-3,
        "logging_steps": 1,
        "disable_tqdm": True,
        "use_cpu": True,
    }
    recipe = {
        "output_dir": str(output_dir),
        "data": {"sources": ["demo"], "max_genes": 24},
        "text": {
            "vocab_size": 400,
            "config": {
                "model_type": "llama",
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "max_position_embeddings": 1024,
                "tie_word_embeddings": True,
            },
        },
        "model": {
            "num_cell_tokens": 2,
            "num_condition_tokens": 2,
            "latent_size": 8,
            "generator_hidden_size": 16,
            "generator_num_layers": 1,
            "contrastive_size": 8,
            "cell_config": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "use_panel_embedding": True,
            },
            "qformer_config": _QFORMER | {"max_position_embeddings": 1024},
            "text_projector_config": dict(_QFORMER),
        },
        "stages": [
            {
                "name": "cell",
                "losses": {"cell_reconstruction": 1.0, "masked_expression": 0.5},
                "modules": ["cell_model", "value_head", "expression_head"],
                "arguments": dict(arguments),
            },
            {
                "name": "discriminative",
                "losses": {"cell_reconstruction": 1.0, "contrastive": 0.3, "matching": 0.1},
                "modules": ["cell_model", "expression_head", "qformer", "contrastive_head", "matching_head"],
                "arguments": dict(arguments),
            },
            {
                "name": "generative",
                "losses": {"language": 1.0, "flow": 2.0},
                "modules": ["cell_projector", "language_model", "text_projector", "cell_generator"],
                "collator": {"panel_dropout": 0.0},
                "arguments": dict(arguments),
            },
        ],
    }
    return recipe | changes


def write_recipe(path: Path, recipe: dict[str, Any]) -> Path:
    """Writes a recipe as YAML."""
    path.write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    return path


def make_adata(num_cells: int = 40, seed: int = 0) -> anndata.AnnData:
    """Counts over `GENES` of three types, each with twenty genes of its own."""
    rng = np.random.default_rng(seed)
    types = np.arange(num_cells) % len(TYPES)
    rates = np.full((num_cells, len(GENES)), 0.5)
    for i, kind in enumerate(types):
        rates[i, 20 * kind : 20 * (kind + 1)] = 5.0
    adata = anndata.AnnData(sparse.csr_matrix(rng.poisson(rates), dtype=np.float32))
    adata.obs_names = [f"cell{i}" for i in range(num_cells)]
    adata.var_names = GENES
    adata.obs["cell_type"] = [TYPES[kind] for kind in types]
    adata.obs["tissue"] = "blood"
    return adata
