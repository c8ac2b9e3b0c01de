"""A corpus: shards of shuffled cells on disk, made from `.h5ad` files, SOMA experiments or the CELLxGENE Census."""

from .build import build_corpus
from .settings import BuildSettings
from .verify import verify_corpus

__all__ = ["BuildSettings", "build_corpus", "verify_corpus"]
