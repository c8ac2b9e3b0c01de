"""The tokenizer: nothing lost, nothing random, and a chat template that TRL can mask."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from scmmgpt.data.tokenizer import train_tokenizer

TEXTS = [
    "A naive B cell from human blood, profiled with 10x 3' v2.",
    "<cell> Describe this cell.",
    "A CD14-positive monocyte from the blood of a healthy donor.",
    "CD8-positive, alpha-beta cytotoxic T cells express CD8A, GZMB and PRF1.",
] * 20
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "cell"}, {"type": "text", "text": " Describe this cell."}]},
    {"role": "assistant", "content": "A B cell."},
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, vocab_size=400)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60))
def test_every_text_comes_back(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    if not any(token in text for token in tokenizer.all_special_tokens):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@given(st.integers(0, 10**12))
def test_digits_are_tokens_of_their_own(tokenizer, number):
    ids = tokenizer(str(number), add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == list(str(number))


def test_special_tokens(tokenizer):
    ids = tokenizer("<cell> Describe<cell>")["input_ids"]
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(tokenizer.cell_token_id) == 2
    assert tokenizer.eos_token_id not in ids
    assert len({tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.cell_token_id}) == 4
    for role in ("system", "user", "assistant"):
        assert len(tokenizer(f"<|{role}|>", add_special_tokens=False)["input_ids"]) == 1
    assert len(tokenizer) <= 400


def test_padding_goes_left_unless_asked(tokenizer):
    batch = tokenizer(["B cell", "a CD14-positive monocyte"], padding=True)
    assert batch["attention_mask"][0][0] == 0
    right = tokenizer(["B cell", "a CD14-positive monocyte"], padding=True, padding_side="right")
    assert right["attention_mask"][0][-1] == 0


def test_save_and_load(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "<cell> A CD14-positive monocyte, 10x 3' v1 é∂."
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text, add_special_tokens=False)["input_ids"]) == text
    assert again.cell_token_id == tokenizer.cell_token_id
    assert again.padding_side == "left"
    assert again.model_max_length == 2048
    assert again.apply_chat_template(CHAT, tokenize=False) == tokenizer.apply_chat_template(CHAT, tokenize=False)


def test_same_texts_same_tokenizer_in_another_process(tokenizer):
    code = (
        "import sys; from scmmgpt.data.tokenizer import train_tokenizer as t;"
        f"sys.stdout.write(t({TEXTS[:4]!r} * 20, vocab_size=400).backend_tokenizer.to_str())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == tokenizer.backend_tokenizer.to_str()


def test_chat_template(tokenizer):
    assert tokenizer.apply_chat_template(CHAT, tokenize=False) == (
        "<bos><|system|>Be brief.<|user|><cell> Describe this cell.<|assistant|>A B cell.<eos>"
    )
    asked = tokenizer.apply_chat_template(CHAT[1:2], tokenize=False, add_generation_prompt=True)
    assert asked == "<bos><|user|><cell> Describe this cell.<|assistant|>"
    plain = [{"role": "user", "content": "<cell> Describe this cell."}]
    assert tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True) == asked


def test_assistant_mask_covers_the_answer_and_its_end(tokenizer):
    chat = [*CHAT, {"role": "user", "content": "Sure?"}, {"role": "assistant", "content": "Yes."}]
    encoded = tokenizer.apply_chat_template(chat, return_dict=True, return_assistant_tokens_mask=True)
    ids = [i for i, marked in zip(encoded["input_ids"], encoded["assistant_masks"], strict=True) if marked]
    assert tokenizer.decode(ids) == "A B cell.<eos>Yes.<eos>"
    assert encoded["input_ids"].count(tokenizer.bos_token_id) == 1


def test_chat_errors(tokenizer):
    with pytest.raises(Exception, match="Roles are"):
        tokenizer.apply_chat_template([{"role": "judge", "content": "x"}], tokenize=False)
    with pytest.raises(Exception, match="not 'image'"):
        tokenizer.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=False)


def test_another_placeholder():
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, cell_token="<|cell|>")
    assert tokenizer.cell_token == "<|cell|>"
    assert "<|cell|> Describe" in tokenizer.apply_chat_template(CHAT, tokenize=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": "one text"}, "`texts` is one string"),
        ({"texts": []}, "`texts` holds 0 texts"),
        ({"texts": ["", ""]}, "`texts` holds 2 texts and no character"),
        ({"texts": ["a"], "vocab_size": 100}, "`vocab_size` is 100, below the 263"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(**arguments)
