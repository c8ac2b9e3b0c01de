"""scMMGPT on AnnData: annotate, describe, embed, search and generate, without writing transformers code.

```python
import scmmgpt.tl as tl

tl.annotate(adata, "path/or/hub-id", labels=["B cell", "NK cell", "monocyte"])  # adata.obs["scmmgpt_label"], ...
tl.describe(adata, "path/or/hub-id")                                            # adata.obs["scmmgpt_description"]
cells = tl.generate("A naive CD4 T cell from human blood.", "path/or/hub-id", n=100)
```

Each function takes the folder or Hub id of a model, or what [`load`] returns where one model serves several calls.
"""

from .annotate import annotate
from .describe import describe
from .embed import embed, search
from .generate import generate
from .models import LoadedModel, load

__all__ = ["LoadedModel", "annotate", "describe", "embed", "generate", "load", "search"]
