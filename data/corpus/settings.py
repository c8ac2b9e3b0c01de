"""What a user decides about a corpus."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .layout import SPLITS


@dataclass(frozen=True)
class BuildSettings:
    """
    What decides the content of a corpus, besides its sources.

    Args:
        genes (`str`, *optional*): folder of a saved feature extractor or model, whose gene vocabulary is used; that of
            all genes of the sources when absent.
        layer (`str`, *optional*): layer with the raw counts, or `raw`; `X` (SOMA: `raw`) when absent.
        filter (`str`, *optional*): which cells to take, such as `is_primary_data == True and tissue == 'blood'`.
        census_version (`str`, *optional*): release of the CELLxGENE Census, such as `2025-11-08`.
        label_key (`str`, *optional*): column of `obs` with the author's labels; `cell_type` when absent.
        recover_counts (`bool`): take log-normalised values back to counts.
        split_key (`str`, *optional*): column whose values are kept whole; when absent `study`, or where there are not
            enough studies `donor_id` within its study.
        validation_share, test_share (`float`): share of the cells, as near as whole studies or donors allow.
        split_of (`Mapping[str, str]`, *optional*): split of each named value of `split_key`, instead of shares; what
            it does not name is trained on.
        skip_refused (`bool`): leave out sources that cannot be used, and say so in the manifest; an error otherwise.
        licence (`str`, *optional*): licence of the sources that name none themselves.
        seed (`int`): decides splits and the order of the cells.
        cells_per_chunk (`int`): cells of a source that one task reads.
        cells_per_shard (`int`): cells of a shard, about.
    """

    genes: str | None = None
    layer: str | None = None
    filter: str | None = None
    census_version: str | None = None
    label_key: str | None = None
    recover_counts: bool = False
    split_key: str | None = None
    validation_share: float = 0.1
    test_share: float = 0.1
    split_of: Mapping[str, str] | None = None
    skip_refused: bool = False
    licence: str | None = None
    seed: int = 0
    cells_per_chunk: int = 16_384
    cells_per_shard: int = 32_768

    def __post_init__(self) -> None:
        for name in ("cells_per_chunk", "cells_per_shard"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}: pass 1 or more.")
        shares = (self.validation_share, self.test_share)
        if min(shares) < 0 or sum(shares) >= 1:
            raise ValueError(
                f"`validation_share` {shares[0]} and `test_share` {shares[1]} must be 0 or more and leave cells to "
                "train on: pass shares whose sum is below 1."
            )
        if self.split_of is not None and self.split_key is None:
            raise ValueError("`split_of` names values of a column: pass that column as `split_key`.")
        for value, split in (self.split_of or {}).items():
            if split not in SPLITS:
                raise ValueError(f"`split_of`: {value!r} is given to {split!r}; pass one of {', '.join(SPLITS)}.")

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)
