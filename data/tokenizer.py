"""A byte-level tokenizer trained on our own texts, for a text model that starts from nothing.

Imports tokenizers and transformers, nothing of this package.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

PAD, BOS, EOS = "<pad>", "<bos>", "<eos>"
ROLES = ("system", "user", "assistant")

# Contents are a string or a list of {"type": "text", "text": ...} and {"type": "cell"}. The generation block marks
# what TRL computes the assistant-only loss on: the answer and the end of text, not the role.
_CHAT_TEMPLATE = """\
{%- macro render(content) -%}
  {%- if content is string -%}
    {{- content -}}
  {%- else -%}
    {%- for part in content -%}
      {%- if part.type == 'text' -%}
        {{- part.text -}}
      {%- elif part.type == 'cell' -%}
        {{- 'CELL_TOKEN' -}}
      {%- else -%}
        {{- raise_exception("Content parts are of type 'text' or 'cell', not '" ~ part.type ~ "'.") -}}
      {%- endif -%}
    {%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{{- bos_token -}}
{%- for message in messages -%}
  {%- if message.role == 'assistant' -%}
    {{- '<|assistant|>' -}}
    {%- generation -%}
      {{- render(message.content) ~ eos_token -}}
    {%- endgeneration -%}
  {%- elif message.role in ['system', 'user'] -%}
    {{- '<|' ~ message.role ~ '|>' ~ render(message.content) -}}
  {%- else -%}
    {{- raise_exception("Roles are 'system', 'user' and 'assistant', not '" ~ message.role ~ "'.") -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|assistant|>' -}}
{%- endif -%}
"""


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int = 4096,
    cell_token: str = "<cell>",
    model_max_length: int = 2048,
) -> PreTrainedTokenizerFast:
    """
    Trains a byte-level BPE tokenizer.

    Every text comes back unchanged from `decode`, whatever its characters. Digits are tokens of their own. Encoding
    starts with `<bos>` (the text tower's summary token) and adds no `<eos>`; padding goes to the left, as generation
    needs. The same texts give the same tokenizer.

    Args:
        texts (`Iterable[str]`): What the tokenizer is to write well.
        vocab_size (`int`, *optional*, defaults to 4096): Most tokens, special ones included.
        cell_token (`str`, *optional*, defaults to `"<cell>"`): The placeholder of a cell.
        model_max_length (`int`, *optional*, defaults to 2048): Longest sequence of the text model.

    Returns:
        `PreTrainedTokenizerFast`: With `cell_token`, `cell_token_id` and a chat template.

    Raises:
        ValueError: No text was given, or `vocab_size` has no room for the 256 bytes and the special tokens.
    """
    if isinstance(texts, str):
        raise ValueError("`texts` is one string, expected several; pass a list of texts.")
    texts = list(texts)
    if not any(texts):
        raise ValueError(f"`texts` holds {len(texts)} texts and no character; pass the texts to learn from.")
    special_tokens = [PAD, BOS, EOS, cell_token, *(f"<|{role}|>" for role in ROLES)]
    return PreTrainedTokenizerFast(
        tokenizer_object=_train_backend(texts, vocab_size, special_tokens),
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        extra_special_tokens={"cell_token": cell_token},
        chat_template=_CHAT_TEMPLATE.replace("CELL_TOKEN", cell_token),
        padding_side="left",
        model_max_length=model_max_length,
        clean_up_tokenization_spaces=False,
    )


def _train_backend(texts: list[str], vocab_size: int, special_tokens: list[str]) -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    least = len(alphabet) + len(special_tokens)
    if vocab_size < least:
        raise ValueError(f"`vocab_size` is {vocab_size}, below the {least} of bytes and special tokens; raise it.")

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=special_tokens,
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    return backend
