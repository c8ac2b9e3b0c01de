"""Cells and text to the inputs of scMMGPT, with a placeholder for each cell, and generated cells to named counts.

Remote code: imports the standard library, numpy, torch and transformers only, and its siblings.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin, TextKwargs

from .feature_extraction_scmmgpt import AlignedCounts, ScMMGPTFeatureExtractor
from .genes_scmmgpt import GeneMatchReport, list_examples

Chat = list[dict[str, Any]]


class ScMMGPTProcessor(ProcessorMixin):
    r"""
    Prepares cells and text for scMMGPT, and names the genes of the cells it generates.

    Args:
        feature_extractor ([`ScMMGPTFeatureExtractor`]): Turns cells into gene tokens.
        tokenizer ([`PreTrainedTokenizerBase`]): Tokenizer of the text model; must know `cell_token`.
        chat_template (`str`, *optional*): Jinja template of chats. Defaults to the tokenizer's.
        cell_token (`str`, *optional*, defaults to `"<cell>"`): Placeholder of one cell in text.
        num_cell_tokens (`int`, *optional*, defaults to 8): Tokens that a cell takes in the language model: each
            placeholder is repeated so often.
    """

    def __init__(
        self,
        feature_extractor: ScMMGPTFeatureExtractor,
        tokenizer: PreTrainedTokenizerBase,
        chat_template: str | None = None,
        cell_token: str = "<cell>",
        num_cell_tokens: int = 8,
    ) -> None:
        self.cell_token = cell_token
        self.num_cell_tokens = num_cell_tokens
        chat_template = chat_template or getattr(tokenizer, "chat_template", None)
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        # Twice: a token that is not an added one can exist and still not be split off its neighbour.
        found = tokenizer.encode(cell_token * 2, add_special_tokens=False).count(self.cell_token_id)
        if found != 2 or self.cell_token_id == tokenizer.unk_token_id:
            raise ValueError(
                f"`tokenizer` does not know {cell_token!r} as a token of its own. Add it with "
                f"`tokenizer.add_tokens([{cell_token!r}], special_tokens=True)` and resize the text model's "
                "embeddings."
            )
        if num_cell_tokens < 1:
            raise ValueError(f"`num_cell_tokens`={num_cell_tokens} must be at least 1.")

    @property
    def cell_token_id(self) -> int:
        """Token id of the cell placeholder."""
        return self.tokenizer.convert_tokens_to_ids(self.cell_token)

    @property
    def model_input_names(self) -> list[str]:
        """Names of the model inputs that a call prepares."""
        return [*self.feature_extractor.model_input_names, "input_ids", "attention_mask"]

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.num_cell_tokens} x {self.cell_token}, "
            f"feature_extractor={self.feature_extractor!r}, tokenizer={self.tokenizer!r})"
        )

    def __call__(
        self,
        text: str | list[str] | Chat | list[Chat] | None = None,
        cells: Any = None,
        gene_names: Sequence[str] | None = None,
        layer: str | None = None,
        return_targets: bool = False,
        return_tensors: str | None = "pt",
        **kwargs: Unpack[TextKwargs],
    ) -> BatchFeature:
        r"""
        Model inputs of B texts, of C cells, or of both.

        Args:
            text (`str`, `list[str]`, chat or list of chats, *optional*): Text with one `<cell>` for each cell, in the
                order of `cells`, or with none at all to embed text and cells side by side. A chat gets the generation
                prompt unless the assistant spoke last.
            cells, gene_names, layer, return_targets: As in [`~ScMMGPTFeatureExtractor.__call__`].
            return_tensors (`str`, *optional*, defaults to `"pt"`): `"pt"` for torch tensors, `"np"` for numpy arrays.
            **kwargs: Settings of the tokenizer, such as `padding` (on by default for several texts), `padding_side`,
                `truncation` and `max_length`.

        Returns:
            [`BatchFeature`]: `input_ids` and `attention_mask` of shape `(B, T)` if there is text, and what
            [`~ScMMGPTFeatureExtractor.__call__`] returns if there are cells.

        Raises:
            `ValueError`: when placeholders and cells do not agree in number, truncation would lose a placeholder, a
            text is empty or no text, an argument is unknown, or the cells are refused (see
            [`~ScMMGPTFeatureExtractor.align`]).
        """
        if text is None and cells is None:
            raise ValueError("both `text` and `cells` are None. Pass at least one of them.")
        if cells is None and (gene_names is not None or layer is not None or return_targets):
            raise ValueError("`gene_names`, `layer` and `return_targets` need `cells`; found None.")
        data: dict[str, Any] = {}
        if cells is not None:
            cell_inputs = (cells, gene_names, layer, return_targets, return_tensors)
            data |= self.feature_extractor(*cell_inputs)
        if text is not None:
            texts = self._as_texts(text)
            placeholders = sum(text.count(self.cell_token) for text in texts)
            num_cells = len(data.get("cell_panel_index", ()))
            if placeholders not in (0, num_cells):
                raise ValueError(
                    f"`text` has {placeholders} {self.cell_token} placeholders, but `cells` has {num_cells} cells. "
                    "Write one placeholder for each cell, or none."
                )
            data |= self._tokenize(texts, kwargs)
        return BatchFeature(data, tensor_type=return_tensors)

    def _as_texts(self, text: str | list[str] | Chat | list[Chat]) -> list[str]:
        items = list(text) if isinstance(text, (list, tuple)) else [text]
        if items and all(isinstance(item, Mapping) for item in items):
            items = [items]
        texts = [self._render_chat(item) if isinstance(item, list) else item for item in items]
        if not texts or not all(isinstance(item, str) and item.strip() for item in texts):
            raise ValueError(
                "`text` must be a string, a list of strings, a chat or a list of chats, none of them empty; found "
                f"{text!r}. To pass cells alone leave `text` out."
            )
        return texts

    def _render_chat(self, chat: Chat) -> str:
        for message in chat or [None]:
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise ValueError(
                    f"`text`: found {message!r} in a chat; expected a list of messages "
                    "{'role': ..., 'content': ...}."
                )
        unanswered = chat[-1]["role"] != "assistant"
        return self.apply_chat_template(chat, add_generation_prompt=unanswered)

    def _tokenize(self, texts: list[str], kwargs: dict[str, Any]) -> dict[str, Any]:
        # transformers' `apply_chat_template(tokenize=True)` passes these to every processor.
        media = {name: kwargs.pop(name, None) for name in ("images", "videos", "audio")}
        kwargs.pop("return_text_replacement_offsets", None)
        unknown = sorted(kwargs.keys() - TextKwargs.__annotations__.keys())
        unknown += [name for name, value in media.items() if value is not None]
        if unknown:
            raise ValueError(
                f"unknown arguments {unknown}. Besides `text` and `cells` the processor takes the settings of the "
                f"tokenizer: {sorted(TextKwargs.__annotations__)}."
            )
        settings = {"padding": len(texts) > 1, "return_token_type_ids": False} | kwargs
        bos = self.tokenizer.bos_token
        if bos and all(text.startswith(bos) for text in texts):
            settings.setdefault("add_special_tokens", False)  # a chat template wrote them
        copies = self.cell_token * self.num_cell_tokens
        encoding = self.tokenizer([x.replace(self.cell_token, copies) for x in texts], **settings)
        for i, (text, ids) in enumerate(zip(texts, encoding["input_ids"], strict=True)):
            expected = text.count(self.cell_token) * self.num_cell_tokens
            found = list(ids).count(self.cell_token_id)
            if found != expected or not len(ids):
                raise ValueError(
                    f"`text`: {len(ids)} tokens are left of text {i}, {found} of them {self.cell_token} where "
                    f"{expected} are expected. Raise `max_length` (found {kwargs.get('max_length')}), shorten the "
                    "text or leave `truncation` off."
                )
        if "offset_mapping" in encoding:
            pairs = zip(texts, encoding["offset_mapping"], strict=True)
            encoding["offset_mapping"] = [self._original_offsets(*pair) for pair in pairs]
        return dict(encoding)

    def _original_offsets(self, text: str, offsets: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Character spans in the text as given, where a placeholder stands once."""
        origin: list[int] = []
        for piece in re.split(f"({re.escape(self.cell_token)})", text):
            start = origin[-1] + 1 if origin else 0
            copies = self.num_cell_tokens if piece == self.cell_token else 1
            origin += [*range(start, start + len(piece))] * copies
        return [(origin[a], origin[b - 1] + 1) if a < b else (0, 0) for a, b in offsets]

    def apply_chat_template(
        self, conversation: Chat | list[Chat], chat_template: str | None = None, **kwargs
    ) -> str | list[str] | BatchFeature:
        """
        As in transformers, for contents that are strings or lists of `{"type": "text", "text": ...}` and `{"type":
        "cell"}` parts. Parts are joined to a string first, so that the templates of text models work too.
        """
        if chat_template is None and self.chat_template is None:
            raise ValueError(
                "`chat_template` is missing: neither the processor nor its tokenizer has one. Pass it here or to the "
                "processor, or pass strings as `text`."
            )
        single = isinstance(conversation[0], Mapping)
        chats = [
            [{key: self._join_parts(value) if key == "content" else value for key, value in m.items()} for m in chat]
            for chat in ([conversation] if single else conversation)
        ]
        return super().apply_chat_template(chats[0] if single else chats, chat_template, **kwargs)

    def _join_parts(self, content: Any) -> Any:
        if not isinstance(content, list):
            return content
        joined = ""
        for part in content:
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind != "cell" and not (kind == "text" and isinstance(part.get("text"), str)):
                raise ValueError(
                    f"`content`: found the part {part!r}; expected {{'type': 'text', 'text': ...}} or "
                    "{'type': 'cell'}."
                )
            joined += self.cell_token if kind == "cell" else part["text"]
        return joined

    def post_process_cells(self, outputs: Any, genes: Sequence[str] | None = None) -> dict[str, Any]:
        """
        Names the genes of generated cells.

        Args:
            outputs (`ScMMGPTCellGenerationOutput`): What `generate(..., generation_mode="cell")` returned: `counts` of
                shape `(n, M)`, `gene_ids` of shape `(M,)`, `library_size` of shape `(n,)`.
            genes (`Sequence[str]`, *optional*): Genes to keep, in this order. Their counts stay those of the whole
                cell.

        Returns:
            `dict`: `counts` (`np.ndarray` of shape `(n, m)`, int32), `var_names` and `ensembl_ids` (`list[str]`, `""`
            where unknown), `library_size` (`np.ndarray` of shape `(n,)`, float32).

        Raises:
            `ValueError`: when one of `genes` was not generated.
        """
        extractor = self.feature_extractor
        gene_ids = outputs.gene_ids.cpu().numpy()
        counts = outputs.counts.detach().cpu().double().round().int().numpy()
        if genes is not None:
            column = {gene: i for i, gene in enumerate(gene_ids.tolist())}
            columns = [column.get(gene, -1) for gene in extractor.gene_ids(genes).tolist()]
            missing = [name for name, i in zip(genes, columns, strict=True) if i < 0]
            if missing:
                raise ValueError(
                    f"`genes`: {list_examples(missing)} not among the {gene_ids.size} generated genes. Pass symbols "
                    "or Ensembl ids of genes of the panel."
                )
            gene_ids, counts = gene_ids[columns], counts[:, columns]
        ensembl_ids = extractor.ensembl_ids or [""] * len(extractor.vocab)
        return {
            "counts": counts,
            "var_names": [extractor.vocab[i] for i in gene_ids],
            "ensembl_ids": [ensembl_ids[i] for i in gene_ids],
            "library_size": outputs.library_size.detach().cpu().float().numpy(),
        }


__all__ = ["AlignedCounts", "GeneMatchReport", "ScMMGPTFeatureExtractor", "ScMMGPTProcessor"]
