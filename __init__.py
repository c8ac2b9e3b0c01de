"""scMMGPT: one model for cells and text. Importing this package needs torch, transformers and numpy only."""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    AutoProcessor,
)

from .configuration_scmmgpt import ScMMGPTCellConfig, ScMMGPTConfig
from .modeling_scmmgpt import ScMMGPTCellModel, ScMMGPTForConditionalGeneration
from .processing_scmmgpt import ScMMGPTFeatureExtractor, ScMMGPTProcessor

__version__ = "0.1.0"

for _config, _model in (
    (ScMMGPTCellConfig, ScMMGPTCellModel),
    (ScMMGPTConfig, ScMMGPTForConditionalGeneration),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
AutoModelForCausalLM.register(ScMMGPTConfig, ScMMGPTForConditionalGeneration)
AutoModelForMultimodalLM.register(ScMMGPTConfig, ScMMGPTForConditionalGeneration)
AutoFeatureExtractor.register(ScMMGPTConfig, ScMMGPTFeatureExtractor)
AutoProcessor.register(ScMMGPTConfig, ScMMGPTProcessor)

# What a saved folder needs so that `trust_remote_code=True` finds the code without this package; the cell encoder
# says so itself.
ScMMGPTConfig.register_for_auto_class()
ScMMGPTForConditionalGeneration.register_for_auto_class("AutoModel")
ScMMGPTFeatureExtractor.register_for_auto_class()
ScMMGPTProcessor.register_for_auto_class()

__all__ = [
    "ScMMGPTCellConfig",
    "ScMMGPTCellModel",
    "ScMMGPTConfig",
    "ScMMGPTFeatureExtractor",
    "ScMMGPTForConditionalGeneration",
    "ScMMGPTProcessor",
]
