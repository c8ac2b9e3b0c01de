"""The command `scmmgpt`. Every task imports what it needs when it is called: `--help` waits for the package alone."""

import argparse
import json
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

LAYER = "layer with the counts, or raw; X when absent"


def main(arguments: list[str] | None = None) -> int:
    """
    Runs one command.

    Args:
        arguments (`list[str]`, *optional*): the words after `scmmgpt`; those of the process when absent.

    Returns:
        `int`: 0, or 1 after an error that the user can mend, which is printed without a traceback.
    """
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ModuleNotFoundError as error:
        print(f"scmmgpt: {error}. Install it with: pip install 'scmmgpt[{options.extra}]'", file=sys.stderr)
        return 1
    except (ValueError, OSError, ImportError) as error:
        print(f"scmmgpt: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scmmgpt", description="One model for cells and text.")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser("demo", help="train, reload, annotate, describe, generate and report, in minutes")
    demo.add_argument("--data", help=".h5ad of raw counts; the 700 blood cells that scanpy ships when absent")
    demo.add_argument("--layer", help=LAYER)
    demo.add_argument("--label-key", default="cell_type", help="column of obs with the cell types")
    demo.add_argument("--output-dir", default="scmmgpt_demo", help="where everything is written")
    demo.add_argument("--recipe", help="training recipe (YAML); nano when absent")
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--overwrite", action="store_true", help="replace what an earlier run left")
    demo.set_defaults(run=_demo, extra="demo")

    pretrain = commands.add_parser("pretrain", help="train a model from a recipe")
    pretrain.add_argument("recipe", help="a YAML file; see train/recipes")
    pretrain.add_argument("--output-dir", help="instead of the recipe's own")
    pretrain.add_argument("--layer", help=f"{LAYER}; instead of the recipe's own")
    pretrain.add_argument("--resume", action="store_true", help="go on with an interrupted run")
    pretrain.set_defaults(run=_pretrain, extra="train")

    annotate = commands.add_parser("annotate", help="write cell types into an .h5ad")
    _add_cells(annotate)
    annotate.add_argument("--labels", nargs="+", required=True, help="candidate cell types")
    annotate.add_argument("--min-score", type=float, default=0.0, help="leave cells below it unassigned")
    annotate.set_defaults(run=_annotate, extra="data")

    describe = commands.add_parser("describe", help="write a text about each cell into an .h5ad")
    _add_cells(describe)
    describe.set_defaults(run=_describe, extra="data")

    embed = commands.add_parser("embed", help="write cell embeddings into an .h5ad")
    _add_cells(embed)
    embed.set_defaults(run=_embed, extra="data")

    generate = commands.add_parser("generate", help="cells from words")
    generate.add_argument("text", nargs="+", help="one or several descriptions, each in quotes")
    generate.add_argument("--model", required=True, help="folder or Hub id of a model")
    generate.add_argument("--output", required=True, type=_new_file, help=".h5ad to write")
    generate.add_argument("-n", type=int, default=100, help="cells per description")
    generate.add_argument("--guidance-scale", type=float, default=1.5)
    generate.add_argument("--seed", type=int, default=0)
    generate.set_defaults(run=_generate, extra="data")

    data = commands.add_parser("data", help="gene vocabularies, and corpora of cells")
    data = data.add_subparsers(required=True, metavar="command")
    _add_genes(data)
    _add_build(data)
    verify = data.add_parser("verify", help="check every file of a corpus against its manifest")
    verify.add_argument("corpus", help="folder of a corpus")
    verify.set_defaults(run=_verify_data, extra="data")
    return parser


def _add_build(data: argparse._SubParsersAction) -> None:
    build = data.add_parser("build", help="make shards of shuffled cells, or go on with an interrupted build")
    build.add_argument(
        "sources", nargs="+", help=".h5ad files, folders, globs, SOMA experiments, or census:homo_sapiens"
    )
    build.add_argument("output", help="folder of the corpus")
    build.add_argument("--genes", help="folder of a feature extractor or model; all genes of the sources when absent")
    build.add_argument("--layer", help=LAYER)
    build.add_argument("--filter", help="such as \"is_primary_data == True and tissue == 'blood'\"")
    build.add_argument("--census-version", help="release of the Census, such as 2025-11-08")
    build.add_argument("--label-key", help="column of obs with the author's labels; cell_type when absent")
    build.add_argument("--recover-counts", action="store_true", help="take log-normalised values back to counts")
    build.add_argument("--split-key", help="column whose values stay whole; studies, or else donors, when absent")
    build.add_argument("--validation-share", type=float, default=0.1)
    build.add_argument("--test-share", type=float, default=0.1)
    build.add_argument("--split-file", type=Path, help='JSON such as {"Kang 2018": "test"}, instead of shares')
    build.add_argument("--skip-refused", action="store_true", help="leave out sources that cannot be used")
    build.add_argument("--licence", help="licence of the sources that state none")
    build.add_argument("--seed", type=int, default=0)
    build.add_argument("--cells-per-shard", type=int, default=32_768)
    build.add_argument("--workers", type=int, default=1, help="processes")
    build.add_argument("--dask", metavar="ADDRESS", help="scheduler of a Dask cluster to work on instead")
    build.set_defaults(run=_build_data, extra="data")


def _add_genes(data: argparse._SubParsersAction) -> None:
    genes = data.add_parser("genes", help="a gene vocabulary with all names of its genes, from tables")
    genes.add_argument("--table", help="genes: symbols and, if there, Ensembl ids, biotypes, aliases (GENCODE, HGNC)")
    genes.add_argument("--aliases", help="another table of the same genes, which adds its names (HGNC)")
    genes.add_argument("--vocab", help="vocab.json of scGPT, whose ids are kept; --table adds names to its genes")
    genes.add_argument("--orthologs", nargs="+", default=[], help="pairs of genes: human_symbol, mouse_symbol, ...")
    genes.add_argument("--ortholog-tables", nargs="+", default=[], help="genes of the other species: adds Ensembl ids")
    genes.add_argument("--biotypes", nargs="+", help="or all; those of Cell Ranger's references when absent")
    genes.add_argument("--max-genes", type=int, default=1200, help="most tokens of a cell")
    genes.add_argument("--output", required=True, help="folder to write the feature extractor into")
    genes.set_defaults(run=_data_genes, extra="data")


def _add_cells(command: argparse.ArgumentParser) -> None:
    command.add_argument("cells", help=".h5ad of raw counts")
    command.add_argument("--model", required=True, help="folder or Hub id of a model")
    command.add_argument("--output", required=True, type=_new_file, help=".h5ad to write")
    command.add_argument("--layer", help=LAYER)


def _new_file(path: str) -> Path:
    if not Path(path).parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {Path(path).parent} to write it into")
    if Path(path).exists():
        raise argparse.ArgumentTypeError(f"{path} is there already; choose another name, or move it away")
    return Path(path)


def _demo(options: argparse.Namespace) -> None:
    from .demo import run_demo

    results = run_demo(
        options.output_dir,
        data=options.data,
        label_key=options.label_key,
        layer=options.layer,
        recipe=options.recipe,
        seed=options.seed,
        overwrite=options.overwrite,
    )
    print()
    for check in results["checks"]:
        print(f"{'reached' if check['reached'] else 'MISSED '}  {check['goal']}: {check['measured']}")
    print(f"\nEverything is in {options.output_dir}/; open {options.output_dir}/report.html first.")


def _pretrain(options: argparse.Namespace) -> None:
    from .train.pretrain import pretrain
    from .train.recipe import Recipe

    recipe = Recipe.from_yaml(options.recipe)
    recipe.output_dir = options.output_dir or recipe.output_dir
    recipe.data.layer = options.layer or recipe.data.layer
    print(f"The model is in {pretrain(recipe, resume=options.resume)}/.")


def _data_genes(options: argparse.Namespace) -> None:
    from .data import add_aliases, genes

    if options.aliases and not options.table:
        raise ValueError("--aliases adds names to the genes of --table, which is missing.")
    if options.biotypes and options.vocab:
        raise ValueError("--biotypes chooses genes of --table, but --vocab has chosen them. Drop one of the two.")
    table = genes.read_gene_table(options.table) if options.table else None
    if options.aliases:
        table = add_aliases(table, genes.read_gene_table(options.aliases))
    settings = {"max_genes": options.max_genes}
    if options.biotypes:
        settings["biotypes"] = None if options.biotypes == ["all"] else options.biotypes
    if options.vocab:
        settings |= {"vocab": genes.read_scgpt_vocab(options.vocab), "value_encoding": "binned"}
    tables = [genes.read_gene_table(path) for path in options.ortholog_tables]
    extractor = genes.make_feature_extractor(table, orthologs=options.orthologs, ortholog_genes=tables, **settings)
    extractor.save_pretrained(options.output)
    print(f"{len(extractor.gene_token_ids)} genes, {sum(map(bool, extractor.ensembl_ids))} with an Ensembl id.")
    print(f"{len(extractor.aliases)} with other names.")
    for species, names in extractor.orthologs.items():
        print(f"{len(names)} with orthologs in {species}.")
    print(f"The feature extractor is in {options.output}/.")


def _annotate(options: argparse.Namespace) -> None:
    from . import tl
    from .data import read_cells

    adata = read_cells(options.cells)
    tl.annotate(adata, options.model, options.labels, min_score=options.min_score, layer=options.layer)
    adata.write_h5ad(options.output)


def _describe(options: argparse.Namespace) -> None:
    from . import tl
    from .data import read_cells

    adata = read_cells(options.cells)
    tl.describe(adata, options.model, layer=options.layer)
    adata.write_h5ad(options.output)


def _embed(options: argparse.Namespace) -> None:
    from . import tl
    from .data import read_cells

    adata = read_cells(options.cells)
    tl.embed(adata, options.model, layer=options.layer)
    adata.write_h5ad(options.output)


def _generate(options: argparse.Namespace) -> None:
    from . import tl

    cells = tl.generate(
        options.text, options.model, n=options.n, guidance_scale=options.guidance_scale, seed=options.seed
    )
    cells.write_h5ad(options.output)


def _build_data(options: argparse.Namespace) -> None:
    from .data.corpus import BuildSettings, build_corpus

    given = vars(options)
    settings = BuildSettings(
        split_of=_read_split(options.split_file) if options.split_file else None,
        **{field.name: given[field.name] for field in fields(BuildSettings) if field.name in given},
    )
    manifest = build_corpus(options.sources, options.output, settings, options.workers, options.dask)
    _print_corpus(options.output, manifest)


def _read_split(path: Path) -> dict[str, str]:
    try:
        split = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`--split-file`: {path} is not valid JSON: {error}.") from error
    if not isinstance(split, dict):
        raise ValueError(f'`--split-file`: {path} holds no mapping; expected such as {{"Kang 2018": "test"}}.')
    return split


def _verify_data(options: argparse.Namespace) -> None:
    from .data.corpus import verify_corpus

    _print_corpus(options.corpus, verify_corpus(options.corpus))


def _print_corpus(folder: str, manifest: dict[str, Any]) -> None:
    print(f"{folder}: {len(manifest['shards'])} shards, all whole.")
    for name, cells in manifest["cells"].items():
        print(f"{cells:>12,} cells {name}")
    for name, cells in manifest["splits"]["cells"].items():
        print(f"{cells:>12,} in {name}")
    for name, reason in manifest["refused"].items():
        print(f"refused: {name}: {reason}")


if __name__ == "__main__":
    sys.exit(main())
