"""Tokens of cells and text, generated cells, saving and loading, and a clear error for every bad input."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from scmmgpt.processing_scmmgpt import ScMMGPTFeatureExtractor, ScMMGPTProcessor

GENES = ["CD3D", "MS4A1", "1-Mar", "NaN", "HLA-A", "Ünicode", "LYZ", "NKG7"]
ENSEMBL = ["ENSG00000167286", "ENSG00000156738", "", "", "ENSG00000206503", "", "ENSG00000090382", "ENSG00000105374"]
PAD, CLS = 8, 9
WORDS = ["<unk>", "<pad>", "<s>", "</s>", "user", "assistant", ":", "describe", "this", "cell", ".", "a", "b", "two"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }} : "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'cell' %}<cell>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %} "
    "{% if message['role'] == 'assistant' %}{% generation %}. a{% endgeneration %} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}assistant :{% endif %}"
)
CHAT = [{"role": "user", "content": [{"type": "cell"}, {"type": "text", "text": " describe this cell ."}]}]


def make_tokenizer(cell_token: bool = True) -> PreTrainedTokenizerFast:
    model = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    model.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, unk_token="<unk>", pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    )
    if cell_token:
        tokenizer.add_tokens([AddedToken("<cell>", special=True)])
    return tokenizer


def make_processor(num_cell_tokens: int = 3, **kwargs) -> ScMMGPTProcessor:
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES, ENSEMBL, **kwargs)
    return ScMMGPTProcessor(extractor, make_tokenizer(), chat_template=TEMPLATE, num_cell_tokens=num_cell_tokens)


def make_mute_processor() -> ScMMGPTProcessor:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()))
    tokenizer.add_tokens(["<cell>"], special_tokens=True)
    return ScMMGPTProcessor(ScMMGPTFeatureExtractor.from_genes(GENES), tokenizer)


@pytest.fixture
def processor() -> ScMMGPTProcessor:
    return make_processor()


@pytest.fixture
def adata() -> anndata.AnnData:
    counts = sp.csr_matrix(np.array([[0, 3, 0, 1, 0, 0, 6, 0], [2, 0, 0, 0, 0, 0, 0, 2]]))
    return anndata.AnnData(counts, obs=pd.DataFrame(index=["first", "second"]), var=pd.DataFrame(index=GENES))


# --- cells


def test_hand_worked_cells(processor, adata):
    inputs = processor(cells=adata, return_targets=True)
    assert set(inputs) == {*processor.feature_extractor.model_input_names, "target_gene_ids", "target_counts"}
    assert inputs["cell_gene_ids"].tolist() == [[CLS, 1, 3, 6], [CLS, 0, 7, PAD]]
    assert inputs["cell_attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    expected = [[-2, np.log1p(3e3), np.log1p(1e3), np.log1p(6e3)], [-2, np.log1p(5e3), np.log1p(5e3), -2]]
    np.testing.assert_allclose(inputs["cell_values"], expected, rtol=1e-6)
    assert inputs["panel_gene_ids"].tolist() == [list(range(8))]
    assert inputs["cell_panel_index"].tolist() == [0, 0]
    assert inputs["target_gene_ids"].tolist() == [[1, 3, 6], [0, 7, PAD]]
    assert inputs["target_counts"].tolist() == [[3, 1, 6], [2, 2, 0]]
    dtypes = {name: value.dtype for name, value in inputs.items()}
    assert {name for name in dtypes if dtypes[name] == torch.float32} == {"cell_values", "target_counts"}
    assert set(dtypes.values()) == {torch.float32, torch.int64}


def test_numpy_is_the_same_as_torch(processor, adata):
    torch_inputs, numpy_inputs = (processor("a <cell> <cell>", adata, return_tensors=x) for x in ("pt", "np"))
    assert torch_inputs.keys() == numpy_inputs.keys()
    for name, value in numpy_inputs.items():
        assert isinstance(value, np.ndarray)
        np.testing.assert_array_equal(value, torch_inputs[name].numpy())


def encode_one(extractor: ScMMGPTFeatureExtractor, gene_ids: np.ndarray, counts: np.ndarray):
    _, token_ids, values = extractor.encode(np.array([0, len(counts)]), gene_ids, counts)
    return token_ids, values


def test_the_highest_counts_are_chosen_and_ties_go_to_the_smaller_id():
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES, max_genes=4)
    ids, values = encode_one(extractor, np.array([0, 1, 3, 5, 7]), np.array([1, 2, 2, 9, 2]))
    assert ids.tolist() == [CLS, 1, 3, 5]
    # The total is that of the whole cell, not of the genes that were kept.
    np.testing.assert_allclose(values, [-2, *np.log1p(1e4 * np.array([2, 2, 9]) / 16)], rtol=1e-6)
    targets = extractor(np.array([[1, 2, 0, 2, 0, 9, 0, 2]]), GENES, return_targets=True)["target_gene_ids"]
    assert targets.tolist() == [[0, 1, 3, 5, 7]]


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.integers(0, 5), min_size=8, max_size=8).filter(any),
    order=st.permutations(range(8)),
    max_genes=st.integers(2, 10),
    encoding=st.sampled_from(["log1p", "binned"]),
)
def test_the_order_of_genes_never_changes_the_tokens(counts, order, max_genes, encoding):
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES, max_genes=max_genes, value_encoding=encoding)
    counts, order = np.array([counts]), np.array(order)
    one = extractor(counts, GENES)
    other = extractor(counts[:, order], [GENES[i] for i in order])
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_one_cell_has_the_same_tokens_in_any_batch(processor):
    counts = np.random.default_rng(0).poisson(1.0, (6, 8))
    counts[:, 0] += 1
    batch = processor(cells=counts, gene_names=GENES)
    for i in range(6):
        alone = processor(cells=counts[i : i + 1], gene_names=GENES)
        length = alone["cell_gene_ids"].shape[1]
        for name in ("cell_gene_ids", "cell_values", "cell_attention_mask"):
            assert torch.equal(batch[name][i, :length], alone[name][0])


def bins_of_scgpt(x: np.ndarray, num_bins: int) -> list[float]:
    """One value at a time: ties share the bins between the edges that they equal; u = 1/2 is the middle one."""
    edges = np.quantile(x, np.linspace(0, 1, num_bins - 1)).tolist()
    bins = []
    for value in x:
        left, right = sum(edge <= value for edge in edges), sum(edge < value for edge in edges)
        bins.append(float(np.ceil(0.5 * (left - right) + right)))
    return bins


def test_bins_by_hand():
    # 5 bins: edges at 1, 2, 3, 4 for the counts 1, 2, 3, 4, so each count fills one bin of its own.
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES, value_encoding="binned", num_bins=5)
    _, values = encode_one(extractor, np.arange(4), np.array([4, 1, 3, 2]))
    assert values.tolist() == [-2, 4, 1, 3, 2]
    # Equal counts meet all four edges: ceil(1/2 * (4 - 0) + 0) = 2.
    assert encode_one(extractor, np.arange(3), np.array([7, 7, 7]))[1].tolist() == [-2, 2, 2, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=200), st.integers(3, 60))
def test_bins_follow_the_formula_and_do_not_depend_on_truncation(counts, num_bins):
    counts = np.array(counts)
    genes = [f"G{i}" for i in range(len(counts))]
    extractor = ScMMGPTFeatureExtractor.from_genes(genes, value_encoding="binned", num_bins=num_bins)
    _, values = encode_one(extractor, np.arange(len(counts)), counts)
    assert values[1:].tolist() == bins_of_scgpt(counts, num_bins)
    assert values[1:].min() >= 1
    assert values[1:].max() <= num_bins - 1
    extractor.max_genes = 5
    ids, few = encode_one(extractor, np.arange(len(counts)), counts)
    assert few[1:].tolist() == values[1:][ids[1:]].tolist()


@settings(max_examples=100, deadline=None)
@given(
    cells=st.lists(
        st.lists(st.one_of(st.integers(1, 5), st.integers(1, 200_000)), min_size=1, max_size=40),
        min_size=1,
        max_size=8,
    ),
    encoding=st.sampled_from(["log1p", "binned"]),
    dtype=st.sampled_from([np.int64, np.uint32, np.float32]),
    max_genes=st.integers(2, 50),
    piece=st.sampled_from([1, 30, 2**16]),
)
def test_a_block_is_encoded_as_its_cells_one_by_one(cells, encoding, dtype, max_genes, piece):
    """To the last bit, large counts and ties included, however the block is cut into pieces."""
    extractor = ScMMGPTFeatureExtractor.from_genes(
        [f"G{i}" for i in range(40)], value_encoding=encoding, max_genes=max_genes, num_bins=7
    )
    limits = np.cumsum([0, *map(len, cells)])
    genes, counts = np.concatenate([np.arange(len(cell)) for cell in cells]), np.concatenate(cells).astype(dtype)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scmmgpt.encoding_scmmgpt._PIECE_ENTRIES", piece)
        block_limits, ids, values = extractor.encode(limits, genes, counts)
    assert (ids.dtype, values.dtype) == (np.int64, np.float32)
    for i, cell in enumerate(map(np.array, cells)):
        kept = sorted(sorted(range(len(cell)), key=lambda gene: (-cell[gene], gene))[: max_genes - 1])
        expected = np.log1p(1e4 * cell / cell.sum()) if encoding == "log1p" else np.array(bins_of_scgpt(cell, 7))
        tokens = slice(*block_limits[i : i + 2])
        assert ids[tokens].tolist() == [extractor.cls_token_id, *kept]
        assert values[tokens].tolist() == [-2, *expected[kept].astype(np.float32).tolist()]


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.int64, np.uint64, np.float16, np.float32, np.float64]
)
def test_counts_of_any_number_type_are_read_alike(dtype):
    counts = np.array([[3, 0, 1], [0, 127, 2]])
    extractor = ScMMGPTFeatureExtractor.from_genes(["A", "B", "C"])
    aligned = extractor.align(counts.astype(dtype), ["C", "A", "B"])
    assert aligned.counts.dtype == np.float32
    assert [dict(zip(*map(np.ndarray.tolist, aligned.row(i)), strict=True)) for i in (0, 1)] == [
        {1: 1, 2: 3},
        {0: 127, 1: 2},
    ]
    if np.dtype(dtype).kind != "u":
        with pytest.raises(ValueError, match="negative values"):
            extractor.align(-counts.astype(dtype), ["C", "A", "B"])


def test_counts_beyond_32_bits_are_summed():
    """As pseudo-bulk has them."""
    counts = np.array([[2**33, 2**34, 5.0]])
    aligned = ScMMGPTFeatureExtractor.from_genes(["A", "B"]).align(counts, ["B", "B", "A"])
    assert aligned.counts.tolist() == [5, 3 * 2**33]


def test_ids_of_the_vocabulary():
    extractor = ScMMGPTFeatureExtractor(["<pad>", "A", "<cls>", "B", "<eoc>"])
    assert (extractor.pad_token_id, extractor.cls_token_id, extractor.gene_token_ids.tolist()) == (0, 2, [1, 3])
    assert extractor.gene_ids(["B", "<eoc>"]).tolist() == [3, -1]


# --- text


def decoded(processor: ScMMGPTProcessor, **kwargs) -> list[str]:
    return processor.batch_decode(processor(**kwargs)["input_ids"])


def test_placeholders_become_as_many_tokens_as_a_cell_takes(processor, adata):
    assert decoded(processor, text="<cell> a <cell>", cells=adata) == [
        "<s> <cell> <cell> <cell> a <cell> <cell> <cell>"
    ]
    assert (processor("<cell><cell>", adata)["input_ids"] == processor.cell_token_id).sum() == 6


def test_several_texts_are_padded_on_the_side_that_is_asked_for(processor):
    right = processor(text=["a", "two a b"])
    assert right["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    left = processor(text=["a", "two a b"], padding_side="left")
    assert left["attention_mask"].tolist() == [[0, 0, 1, 1], [1, 1, 1, 1]]
    assert left["input_ids"][0, 2:].tolist() == right["input_ids"][0, :2].tolist()
    assert processor(text="a", padding="max_length", max_length=5)["input_ids"].shape == (1, 5)
    assert set(right) == {"input_ids", "attention_mask"}


def test_text_and_cells_side_by_side_need_no_placeholder(processor, adata):
    inputs = processor(text=["a", "b", "two"], cells=adata)
    assert len(inputs["input_ids"]) == 3
    assert len(inputs["cell_gene_ids"]) == 2


def test_chats_with_parts_and_with_strings_are_the_same_text(processor, adata):
    with_string = [{"role": "user", "content": "<cell> describe this cell ."}]
    rendered = processor.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert rendered == "<s>user : <cell> describe this cell . assistant :"
    assert rendered == processor.apply_chat_template(with_string, tokenize=False, add_generation_prompt=True)
    # The processor joins the parts itself; a template that reads parts would have written the same.
    plain = processor.tokenizer.apply_chat_template(
        CHAT, chat_template=TEMPLATE, tokenize=False, add_generation_prompt=True
    )
    assert rendered == plain
    one = adata[:1]
    expected = processor(text=rendered, cells=one)["input_ids"]
    assert expected.tolist()[0][:2] == [2, WORDS.index("user")]  # one <s>, not two
    for text in (CHAT, [CHAT], with_string):
        assert torch.equal(processor(text=text, cells=one)["input_ids"], expected)
    tokenized = processor.apply_chat_template(
        CHAT, tokenize=True, return_dict=True, add_generation_prompt=True, processor_kwargs={"cells": one}
    )
    assert torch.equal(tokenized["input_ids"], expected)
    assert torch.equal(tokenized["cell_gene_ids"], processor(cells=one)["cell_gene_ids"])
    assert CHAT[0]["content"][0] == {"type": "cell"}


def test_a_batch_of_chats_and_a_chat_that_is_answered(processor, adata):
    answered = [*CHAT, {"role": "assistant", "content": "two"}]
    texts = decoded(processor, text=[CHAT, answered], cells=adata)
    assert texts[0].rstrip("<pad> ").endswith("assistant :")
    assert texts[1].endswith("two . a")


def test_the_template_of_the_tokenizer_serves_when_the_processor_has_none():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = TEMPLATE
    processor = ScMMGPTProcessor(ScMMGPTFeatureExtractor.from_genes(GENES), tokenizer)
    assert processor.chat_template == TEMPLATE


def test_assistant_masks_survive_the_expansion_of_placeholders(processor, adata):
    chat = [*CHAT, {"role": "assistant", "content": "two"}]
    out = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, return_assistant_tokens_mask=True, processor_kwargs={"cells": adata[:1]}
    )
    mask = np.array(out["assistant_masks"][0], dtype=bool)
    assert processor.decode(out["input_ids"][0][mask]) == ". a"


def test_names_of_the_model_inputs(processor, adata):
    assert set(processor("<cell> <cell>", adata)) == set(processor.model_input_names)


def test_decode(processor):
    assert processor.decode(processor("two a .")["input_ids"][0], skip_special_tokens=True) == "two a ."


# --- generated cells


def generated() -> SimpleNamespace:
    return SimpleNamespace(
        counts=torch.tensor([[1.0, 0.0, 5.0], [2.0, 7.0, 0.0]]),
        gene_ids=torch.tensor([0, 2, 6]),
        library_size=torch.tensor([6.5, 9.0]),
    )


def test_generated_cells_get_their_names_back(processor):
    cells = processor.post_process_cells(generated())
    assert cells["counts"].dtype == np.int32
    assert cells["counts"].tolist() == [[1, 0, 5], [2, 7, 0]]
    assert cells["var_names"] == ["CD3D", "1-Mar", "LYZ"]
    assert cells["ensembl_ids"] == ["ENSG00000167286", "", "ENSG00000090382"]
    assert cells["library_size"].tolist() == [6.5, 9.0]


def test_a_subset_of_genes_is_only_a_subset(processor):
    cells = processor.post_process_cells(generated(), genes=["ENSG00000090382.5", "cd3d"])
    assert cells["var_names"] == ["LYZ", "CD3D"]
    assert cells["counts"].tolist() == [[5, 1], [0, 2]]
    assert cells["library_size"].tolist() == [6.5, 9.0]
    for unknown in ("TP53", "NKG7"):  # not in the vocabulary; not in the panel
        with pytest.raises(ValueError, match=f"`genes`: '{unknown}' not among the 3 generated genes"):
            processor.post_process_cells(generated(), genes=["CD3D", unknown])


# --- saving and loading


def test_saved_processor_is_the_same(processor, adata, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = ScMMGPTProcessor.from_pretrained(tmp_path)
    assert loaded.feature_extractor.vocab == [*GENES, "<pad>", "<cls>"]
    assert loaded.to_dict() == {name: value for name, value in processor.to_dict().items() if name != "auto_map"}
    assert loaded.chat_template == processor.chat_template
    one, other = processor(text="<cell> <cell>", cells=adata), loaded(text="<cell> <cell>", cells=adata)
    assert all(torch.equal(one[name], other[name]) for name in one)
    settings = json.loads((tmp_path / "processor_config.json").read_text())
    assert settings["num_cell_tokens"] == 3
    assert not [name for name in settings["feature_extractor"] if name.startswith("_")]


def test_feature_extractor_alone_round_trips_with_changed_settings(tmp_path):
    extractor = ScMMGPTFeatureExtractor.from_genes(GENES, ENSEMBL, value_encoding="binned", num_bins=7)
    extractor.save_pretrained(tmp_path)
    loaded = ScMMGPTFeatureExtractor.from_pretrained(tmp_path, max_genes=5)
    assert loaded.to_dict() == extractor.to_dict() | {"max_genes": 5}


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(min_size=1, max_size=6).filter(lambda x: x[0] != "<"), min_size=1, max_size=9, unique=True))
def test_any_vocabulary_survives_json(genes):
    extractor = ScMMGPTFeatureExtractor.from_genes(genes, genes)
    settings = json.loads(extractor.to_json_string().encode("utf-8"))
    assert ScMMGPTFeatureExtractor.from_dict(settings).to_dict() == extractor.to_dict()


def test_what_is_shown_of_a_processor_is_short():
    extractor = ScMMGPTFeatureExtractor.from_genes([f"G{i}" for i in range(5000)])
    assert len(repr(extractor)) < 300
    assert "G4999" not in repr(ScMMGPTProcessor(extractor, make_tokenizer()))


REMOTE = """
import json, sys
from importlib.util import find_spec
assert find_spec("scmmgpt") is None
import numpy as np
from transformers import AutoFeatureExtractor, AutoProcessor

folder, again = sys.argv[1:]
counts = np.array([[0, 3, 0, 1, 0, 0, 6, 0]])
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=True)
assert extractor.to_dict() == processor.feature_extractor.to_dict()
processor.save_pretrained(again)
processor = AutoProcessor.from_pretrained(again, trust_remote_code=True)
vocab = processor.feature_extractor.vocab
inputs = processor("<cell> a", cells=counts, gene_names=vocab[:8], return_targets=True, return_tensors="np")
print(json.dumps({"vocab": vocab, **{name: value.tolist() for name, value in inputs.items()}}))
"""


def test_a_bare_folder_loads_where_the_package_is_not_importable(processor, repository: Path, tmp_path, monkeypatch):
    # scmmgpt registers its classes on import; a checkout where only this file is at hand does not.
    monkeypatch.setattr(ScMMGPTProcessor, "_auto_class", "AutoProcessor")
    monkeypatch.setattr(ScMMGPTFeatureExtractor, "_auto_class", "AutoFeatureExtractor")
    processor.save_pretrained(tmp_path / "saved")
    shutil.copy(repository / "processing_scmmgpt.py", tmp_path / "saved")
    (tmp_path / "elsewhere").mkdir()
    # -I keeps the working folder and PYTHONPATH out; an editable install is a finder that has to go too.
    hide = "import sys; sys.meta_path = [x for x in sys.meta_path if 'editable' not in repr(x).lower()]\n"
    modules = f"import os; os.environ['HF_MODULES_CACHE'] = {str(tmp_path / 'modules')!r}\n"
    command = [sys.executable, "-I", "-c", hide + modules + REMOTE, str(tmp_path / "saved"), str(tmp_path / "again")]
    done = subprocess.run(command, cwd=tmp_path / "elsewhere", capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found.pop("vocab") == processor.feature_extractor.vocab
    counts = np.array([[0, 3, 0, 1, 0, 0, 6, 0]])
    expected = processor("<cell> a", counts, GENES, return_targets=True)
    assert found == {name: value.tolist() for name, value in expected.items()}
    assert (tmp_path / "again" / "processing_scmmgpt.py").read_bytes() == (
        repository / "processing_scmmgpt.py"
    ).read_bytes()


# --- bad input

X = np.array([[1.0, 2.0], [3.0, 4.0]])
TWO = ["CD3D", "LYZ"]
ADATA = anndata.AnnData(X, var=pd.DataFrame(index=TWO), layers={"counts": X, "scaled": -X})
NO_CELLS = {"gene_names": TWO}


def at(value: float) -> np.ndarray:
    cells = X.copy()
    cells[1, 1] = value
    return cells


BAD_CALLS = {
    "nothing": ({}, "both `text` and `cells` are None"),
    "negative": ({"cells": at(-1), **NO_CELLS}, "negative values .*1 of 4 .*first is -1.*recover_counts"),
    "nan": ({"cells": at(np.nan), **NO_CELLS}, "holds NaN.*raw counts"),
    "too many": ({"cells": at(2.0**40), **NO_CELLS}, "values of 1,099,511,627,776 and more.*raw counts"),
    "infinite": ({"cells": at(np.inf), **NO_CELLS}, "infinite values.*raw counts"),
    "log-normalised": ({"cells": np.log1p(X), **NO_CELLS}, "not whole numbers.*Pass raw counts, or recover them"),
    "negative layer": ({"cells": ADATA, "layer": "scaled"}, "negative values"),
    "booleans": ({"cells": X > 1, **NO_CELLS}, "booleans: whether a gene was seen"),
    "strings": ({"cells": X.astype(str), **NO_CELLS}, "must hold numbers; found dtype"),
    "mixed data frame": (
        {"cells": pd.DataFrame({"CD3D": [1], "LYZ": ["x"]})},
        "must hold numbers; found dtype object",
    ),
    "empty cells": ({"cells": ADATA[:, []].copy()}, "2 cells x 0 genes"),
    "no cells": ({"cells": ADATA[[]]}, "0 cells x 2 genes"),
    "cell without counts": (
        {"cells": np.array([[0, 0], [1, 0]]), **NO_CELLS},
        "1 of 2 cells have no counts.*'cell 0'",
    ),
    "named cell without counts": ({"cells": {"CD3D": 0}}, "1 of 1 cells have no counts in the 1 matched genes"),
    "one dimension": ({"cells": X[0], **NO_CELLS}, r"two dimensions.*shape \(2,\).*reshape\(1, -1\)"),
    "three dimensions": ({"cells": X[None], **NO_CELLS}, r"shape \(1, 2, 2\)"),
    "no gene names": ({"cells": sp.csr_matrix(X)}, "`gene_names` must be the 2 gene names.*found None"),
    "gene names as string": ({"cells": X, "gene_names": "CD3D"}, "`gene_names` must be.*found 'CD3D'"),
    "too few gene names": ({"cells": X, "gene_names": ["CD3D"]}, "has 1 names, but `cells` is 2 cells x 2 genes"),
    "gene names for dicts": ({"cells": {"CD3D": 1}, **NO_CELLS}, "name their genes"),
    "unknown genes": ({"cells": X, "gene_names": ["TP53", "EGFR"]}, "0 of 2 genes matched.*'TP53'.*'CD3D'.*gene_ids"),
    "positions for names": ({"cells": X, "gene_names": [0, 1]}, "0 of 2 genes matched.*unmatched: '0', '1'"),
    "mouse genes": ({"cells": X, "gene_names": ["Cd3d", "Lyz2"]}, "look like mouse genes.*orthologs"),
    "unknown layer": ({"cells": ADATA, "layer": "raw"}, "no layer 'raw'. Layers available: 'counts', 'scaled'"),
    "layer of a matrix": ({"cells": X, "layer": "counts", **NO_CELLS}, "`layer`='counts' needs an AnnData"),
    "no X": ({"cells": anndata.AnnData(obs=ADATA.obs, var=ADATA.var)}, "no X. Layers available: none"),
    "a path": ({"cells": "cells.h5ad"}, "must be an AnnData.*found str"),
    "lists": ({"cells": X.tolist(), **NO_CELLS}, "must be an AnnData.*found list"),
    "no dicts": ({"cells": []}, "0 cells x 0 genes"),
    "tensorflow": ({"cells": ADATA, "return_tensors": "tf"}, "'tf' must be 'pt' or 'np'"),
    "gene names without cells": ({"text": "a", **NO_CELLS}, "need `cells`"),
    "empty text": ({"text": " "}, "`text` must be.*none of them empty"),
    "no texts": ({"text": []}, "`text` must be"),
    "an empty text": ({"text": ["a", ""]}, "none of them empty"),
    "numbers for text": ({"text": [1, 2]}, r"`text` must be.*found \[1, 2\]"),
    "text and chats": ({"text": ["a", CHAT]}, "<cell> placeholders, but `cells` has 0 cells"),
    "chat without role": ({"text": [{"content": "a"}]}, "found {'content': 'a'} in a chat"),
    "chat without messages": ({"text": [[]]}, "found None in a chat"),
    "image in a chat": (
        {"text": [{"role": "user", "content": [{"type": "image"}]}]},
        "found the part {'type': 'image'}",
    ),
    "placeholder without cells": ({"text": "<cell> a"}, "1 <cell> placeholders, but `cells` has 0 cells"),
    "too few placeholders": ({"text": "<cell> a", "cells": ADATA}, "1 <cell> placeholders, but `cells` has 2 cells"),
    "too many placeholders": ({"text": ["<cell>"] * 3, "cells": ADATA}, "3 <cell> placeholders.*2 cells"),
    "truncated": (
        {"text": "a <cell> <cell>", "cells": ADATA, "truncation": True, "max_length": 4},
        "4 tokens are left of text 0, 2 of them <cell> where 6 are expected.*max_length",
    ),
    "unknown argument": ({"text": "a", "max_len": 5}, r"unknown arguments \['max_len'\].*max_length"),
    "images": ({"text": "a", "images": [1]}, r"unknown arguments \['images'\]"),
    "ragged": ({"text": ["a", "a b"], "padding": False}, "padding=True"),
}


@pytest.mark.parametrize("case", list(BAD_CALLS))
def test_bad_calls(processor, case):
    arguments, message = BAD_CALLS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        processor(**arguments)


BAD_SETTINGS = {
    "no vocabulary": (lambda: ScMMGPTFeatureExtractor(), "`vocab` must be a list.*incomplete"),
    "numbers": (lambda: ScMMGPTFeatureExtractor.from_genes([1, 2]), "`vocab` must be a list of gene tokens"),
    "duplicates": (lambda: ScMMGPTFeatureExtractor.from_genes(["A", "A"]), "repeats 1 of its 4 tokens"),
    "no <cls>": (lambda: ScMMGPTFeatureExtractor(["A", "<pad>"]), r"lacks the special tokens \['<cls>'\]"),
    "ensembl": (lambda: ScMMGPTFeatureExtractor.from_genes(["A"], ["", ""]), "one string for each of the 3.*found 4"),
    "ensembl nan": (lambda: ScMMGPTFeatureExtractor.from_genes(["A"], [float("nan")]), "`ensembl_ids` must hold"),
    "encoding": (
        lambda: ScMMGPTFeatureExtractor.from_genes(["A"], value_encoding="tpm"),
        "must be 'log1p' or 'binned'",
    ),
    "max_genes": (lambda: ScMMGPTFeatureExtractor.from_genes(["A"], max_genes=1), "`max_genes`=1 must be at least 2"),
    "num_cell_tokens": (lambda: make_processor(num_cell_tokens=0), "`num_cell_tokens`=0 must be at least 1"),
    "no <cell>": (
        lambda: ScMMGPTProcessor(ScMMGPTFeatureExtractor.from_genes(["A"]), make_tokenizer(cell_token=False)),
        "does not know '<cell>'.*add_tokens",
    ),
    "text that the tokenizer cannot read": (lambda: make_mute_processor()(text="a b"), "0 tokens are left of text 0"),
    "unsplit <cell>": (
        lambda: ScMMGPTProcessor(ScMMGPTFeatureExtractor.from_genes(["A"]), make_tokenizer(), cell_token="cell"),
        "does not know 'cell' as a token of its own",
    ),
    "no chat template": (
        lambda: ScMMGPTProcessor(ScMMGPTFeatureExtractor.from_genes(["A"]), make_tokenizer())(text=CHAT),
        "`chat_template` is missing",
    ),
    "aligned again": (
        lambda: make_processor()(cells=make_processor().feature_extractor.align(ADATA), gene_names=TWO),
        "aligned already. Drop `gene_names`",
    ),
    "other vocabulary": (
        lambda: ScMMGPTFeatureExtractor.from_genes(["A"])(make_processor().feature_extractor.align(ADATA)),
        "aligned to another gene vocabulary",
    ),
}


@pytest.mark.parametrize("case", list(BAD_SETTINGS))
def test_bad_settings(case):
    make, message = BAD_SETTINGS[case]
    with pytest.raises(ValueError, match=f"(?s){message}"):
        make()
