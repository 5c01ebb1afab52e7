"""params.yaml and variants/*.yaml: valid and refused values, messages, and setting a value."""

import copy
import io
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipelines.params import set_source, set_value
from pipelines.runtime.errors import UserError
from pipelines.settings.dataset_defaults import DATASET_DEFAULTS, OWN_DEFAULTS
from pipelines.settings.params import PARAMS_FILE, Params, check_params, load_params
from pipelines.settings.train_presets import OF_EVERY_PRESET
from pipelines.settings.variants import load_variant
from pipelines.settings.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parents[3]
SHIPPED = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
# The examples of a test share its folder.
FUZZ = settings(
    max_examples=100, deadline=None, database=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "variants", tmp_path / "variants")
    monkeypatch.chdir(tmp_path)


def leaves(tree: dict, *above: str) -> list[str]:
    """Dotted names of all settings, including those whose default is an empty mapping."""
    found = []
    for name, value in tree.items():
        found += leaves(value, *above, name) if isinstance(value, dict) and value else [".".join((*above, name))]
    return found


def edit(dotted: str, value, file: str = "params.yaml") -> None:
    """Write ``value`` at ``dotted``."""
    document = copy.deepcopy(parsed(Path(file).read_text()))
    place(document, dotted, value)
    with Path(file).open("w") as stream:
        YAML(typ="safe").dump(document, stream)


@cache
def parsed(text: str) -> Any:
    """Parse YAML, once for each text: the shipped file is needed some two thousand times. Do not change the result."""
    return YAML(typ="safe").load(text)


def get(tree, dotted: str):
    for name in dotted.split("."):
        tree = tree[name]
    return tree


def place(tree: dict, dotted: str, value: Any) -> None:
    """Replace the value at ``dotted``."""
    above, _, name = dotted.rpartition(".")
    (get(tree, above) if above else tree)[name] = value


def through_yaml(value: Any) -> Any:
    """The value as YAML writes and reads it: a date, for example, or a text of several lines."""
    text = io.StringIO()
    YAML(typ="safe").dump({"a": {"value": value, "next": 1}}, text)
    read = YAML(typ="safe").load(text.getvalue())["a"]
    assert read["next"] == 1
    return read["value"]


def check_with(dotted: str, value: Any) -> Params:
    """Check the shipped settings with one value replaced, without a file: parsing one takes most of the time."""
    document = copy.deepcopy(SHIPPED)
    place(document, dotted, value)
    return check_params(document, PARAMS_FILE)


def refusal(action=load_params, *arguments) -> str:
    with pytest.raises(UserError) as caught:
        action(*arguments)
    return str(caught.value)


# Nulls that are no values to be filled in.
OPTIONAL = {"data.group", "data.pixel_range"} | {
    f"data.table.{name}" for name in ("file", "image", "label", "split", "group", "box")
}


def test_shipped_settings_are_valid():
    values = load_params().model_dump(by_alias=True)
    assert sorted(leaves(values)) == sorted(leaves(SHIPPED))
    assert {leaf for leaf in leaves(values) if get(values, leaf) is None} == OPTIONAL
    for file in Path("variants").glob("*.yaml"):
        load_variant(file.stem)


@pytest.mark.parametrize("dataset", [*DATASET_DEFAULTS, "my-own"])
def test_null_is_the_data_sets_default_and_a_value_wins(dataset):
    expected = DATASET_DEFAULTS.get(dataset, OWN_DEFAULTS)
    of_preset = {f"train.{name}" for name in OF_EVERY_PRESET}
    nulls = [leaf for leaf in leaves(SHIPPED) if get(SHIPPED, leaf) is None and leaf not in of_preset | OPTIONAL]
    assert {default_of(leaf) for leaf in nulls} == set(expected._fields)
    edit("data.dataset", dataset)
    values = load_params().model_dump()
    assert {leaf: get(values, leaf) for leaf in nulls} == {leaf: getattr(expected, default_of(leaf)) for leaf in nulls}
    chosen = {"size": 40, "channels": 1, "epochs": 7, "batch_size": 9, "lr": 0.5, "flip": True, "shift": 5}
    chosen |= {"tune_epochs": 3}
    for leaf in nulls:
        edit(leaf, chosen[default_of(leaf)])
    values = load_params().model_dump()
    assert {default_of(leaf): get(values, leaf) for leaf in nulls} == chosen


def default_of(leaf: str) -> str:
    """The field of a data set's defaults that replaces a null here."""
    return "tune_epochs" if leaf == "tune.epochs" else leaf.split(".")[-1]


def test_every_misspelled_name_is_refused_with_the_right_one():
    """A missing last letter, at every name of every section."""
    sections = {leaf.rpartition(".")[0] for leaf in leaves(SHIPPED)} - {""}
    unhelpful = {}
    for dotted in sorted({*leaves(SHIPPED), *sections}):
        above, _, name = dotted.rpartition(".")
        if name in ("low", "log"):
            continue  # "lo" is equally close to both
        document = copy.deepcopy(SHIPPED)
        section = get(document, above) if above else document
        section[name[:-1]] = section.pop(name)
        wanted = f"params.yaml: {above}{'.' * bool(above)}{name[:-1]}: unknown setting; did you mean {name}?"
        said = [line.strip() for line in refusal(check_params, document, PARAMS_FILE).splitlines()]
        if wanted not in said:
            unhelpful[wanted] = said
    assert unhelpful == {}


@pytest.mark.parametrize(
    ("setting", "given", "allowed"),
    [
        ("variants", [], "at least 1"),
        ("variants", ["stn", "stn"], "once"),
        ("variants", ["../stn"], "pattern"),
        ("data.dataset", "my set", "pattern"),
        ("data.source", 12, "string"),
        ("data.source", "", "at least 1"),
        ("data.size", 3, "4"),
        ("data.size", 32.0, "integer"),
        ("data.size", [32], "2"),
        ("data.size", [32, 100, 3], "2"),
        ("data.size", [32, 2000], "1024"),
        ("data.fit", "squeeze", "'stretch', 'pad' or 'crop'"),
        ("data.fill", 256, "255"),
        ("data.fill", [0, 0], "3"),
        ("data.fill", [0, 0, -1], "0"),
        ("data.fill", "white", "'edge'"),
        ("data.channels", 2, "1 or 3"),
        ("data.distortion.protocol", "r", "RTS"),
        ("data.distortion.rotation", -1, "0"),
        ("data.distortion.scale", [1.0, 0.5], "first"),
        ("data.distortion.scale", [1.0], "2"),
        ("data.distortion.padding_mode", "wrap", "reflection"),
        ("prepare.validation", 1.0, "less than 1"),
        ("prepare.test", 0, "greater than 0"),
        ("prepare.seed", -1, "0"),
        ("tune.trials", -1, "0"),
        ("tune.epochs", 0, "1"),
        ("tune.sampler", "grid", "random"),
        ("tune.pruner", None, "hyperband"),
        ("tune.max_parameters", 0, "stn"),
        ("tune.gpus_per_trial", 1.5, "1"),
        ("tune.trials_at_once", 5, "at most 4"),
        ("tune.finalists", 0, "1"),
        ("tune.final_seeds", [0, 1], "tune.seed"),
        ("tune.search_space.transform", ["rigid"], "affine"),
        ("tune.search_space.layers", [0], "1"),
        ("tune.search_space.channels", 8, "list"),
        ("tune.search_space.channels", [], "at least 1"),
        ("tune.search_space.kernel_size", [3.5], "integer"),
        ("tune.search_space.hidden.low", None, "integer"),
        ("tune.search_space.hidden.high", 1, "low: 8"),
        ("tune.search_space.localization_lr.low", 0.0, "greater than 0"),
        ("train.seeds", [], "at least 1"),
        ("train.seeds", [4, 4], "once"),
        ("train.seeds", 0, "list"),
        ("train.epochs", 0, "1"),
        ("train.epochs", 2.5, "integer"),
        ("train.batch_size", True, "integer"),
        ("train.lr", 0, "greater than 0"),
        ("train.lr", float("nan"), "finite"),
        ("train.lr", float("inf"), "finite"),
        ("train.lr", "fast", "number"),
        ("train.preset", "large", "finetune"),
        ("train.preset", None, "small"),
        ("train.optimizer", "adam", "adamw"),
        ("train.momentum", 1, "less than 1"),
        ("train.decay_norms", 0, "boolean"),
        ("train.layer_decay", 0, "greater than 0"),
        ("train.layer_decay", 1.5, "less than or equal to 1"),
        ("train.label_smoothing", 1.0, "less than 1"),
        ("train.class_weights", "inverse", "balanced"),
        ("train.sampler", "random", "uniform"),
        ("evaluate.metric", "f1", "macro_f1"),
        ("train.crop", [1.0, 0.5], "first"),
        ("train.crop", [0.0, 1.0], "greater than 0"),
        ("train.crop", [0.5], "2"),
        ("train.color_jitter", 1.5, "1"),
        ("train.mixup", -0.1, "0"),
        ("train.ema", 1.0, "less than 1"),
        ("train.alignment.weight", -1.0, "0"),
        ("train.alignment.to", "sideways", "upright"),
        ("train.alignment.warmup", 1.5, "1"),
        ("train.flip", "yes", "boolean"),
        ("train.flip", 1, "boolean"),
        ("train.precision", "fp16", "bf16"),
        ("train.workers", 0, "auto"),
        ("train.threads", "all", "auto"),
        ("train.max_failures", -1, "0"),
        ("evaluate.resamples", 10, "100"),
        ("evaluate.confidence", 95, "less than 1"),
        ("visualize.examples", 0, "1"),
        ("register.tags", ["team"], "dictionary"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line(setting, given, allowed):
    edit(setting, given)
    said = refusal()
    assert len(said.splitlines()) == 1, said
    assert said.startswith(f"params.yaml: {setting}")
    shown, _, rule = said.partition(" given; ")
    # For a list, the line may show the invalid element alone.
    assert any(shown.endswith(f": {value!r}") for value in (given, *(given if isinstance(given, list) else ())))
    assert allowed in rule


def test_a_term_for_undone_motions_is_refused_where_there_is_no_motion():
    edit("train.alignment.weight", None)
    assert load_params().train.alignment.weight == 0
    edit("train.alignment.to", "upright")
    load_params()  # without a weight it does not count
    edit("train.alignment.weight", 1.0)
    said = refusal()
    assert len(said.splitlines()) == 1 and "weight: 1.0 given with train.alignment.to: upright" in said
    edit("train.alignment.weight", 0.0)
    edit("tune.search_space.alignment_weight", [0.0, 2.0])
    assert "tune.search_space.alignment_weight: 2.0 given with train.alignment.to: upright" in refusal()
    edit("tune.search_space.alignment_weight", [])
    edit("train.alignment.weight", 1.0)
    edit("data.distortion.rotation", 30)
    assert load_params().train.alignment.to == "upright"
    edit("train.vertical_flip", True)
    assert "train.alignment.weight: 1.0 given with train.alignment.to: upright and train.vertical_flip" in refusal()
    edit("train.vertical_flip", False)
    edit("train.mixup", 0.2)
    said = refusal()
    assert len(said.splitlines()) == 1 and "alignment.weight: 1.0 given with mixup: 0.2" in said
    edit("train.alignment.weight", 0.0)
    assert load_params().train.mixup == 0.2


def test_a_weight_of_a_variant_is_checked_like_that_of_the_recipe(tmp_path):
    stn = tmp_path / "variants/stn.yaml"
    stn.write_text(stn.read_text() + "alignment_weight: 3.0\n")
    load_params()
    edit("train.alignment.to", "upright")
    assert "variants/stn.yaml: alignment_weight: 3.0 given with train.alignment.to: upright" in refusal()
    edit("data.distortion.rotation", 30)
    load_params()
    edit("train.mixup", 0.2)
    assert "variants/stn.yaml: alignment_weight: 3.0 given with train.mixup: 0.2" in refusal()


def test_rare_classes_are_raised_once():
    edit("train.sampler", "balanced")
    load_params()
    edit("train.class_weights", "balanced")
    said = refusal()
    assert len(said.splitlines()) == 1 and "train.class_weights: balanced given with sampler: balanced" in said


def test_each_mistake_has_its_own_line():
    for setting, value in {"train.lr": -1, "data.size": "big", "evaluate.confidence": 2}.items():
        edit(setting, value)
    lines = refusal().splitlines()
    assert len(lines) == 3
    assert all(any(name in line for line in lines) for name in ("train.lr", "data.size", "evaluate.confidence"))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"variants: [plain]\ndata:\n  dataset: cifar10\n  size: [32\nprepare:\n", "params.yaml:5: "),
        (b"variants: [plain]\ndata:\n\tsize: 32\n", "params.yaml:3: "),
        (b"train:\n  lr: 0.1\n  lr: 0.2\n", "params.yaml:3: "),
        (b"variants: \xff\xfe", "params.yaml: cannot be read"),
        (b"", "params.yaml: the file: None given"),
        (b"- plain", "params.yaml: the file: ['plain'] given"),
    ],
)
def test_a_file_that_is_no_settings_file_is_refused(content, said):
    Path("params.yaml").write_bytes(content)
    answer = refusal()
    assert answer.startswith(said) and len(answer.splitlines()) == 1


def test_a_missing_file_is_named():
    Path("params.yaml").unlink()
    assert "params.yaml: not found" in refusal()
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    edit("variants", ["plain", "other"])
    said = refusal()
    assert "'other' given" in said and "variants/other.yaml" in said and "there are: plain, " in said


def test_the_former_name_of_the_baseline_is_answered_with_the_present_one(monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    edit("variants", ["seed"])
    assert refusal() == "variants: 'seed' given; this variant is now named stn"
    assert refusal(load_variant, "seed") == "variants: 'seed' given; this variant is now named stn"
    shutil.copy("variants/stn.yaml", "variants/seed.yaml")  # now the user's own variant
    assert load_params().variants == ["seed"] and load_variant("seed") == load_variant("stn")
    edit("tune.max_parameters", "seed")
    assert refusal() == "params.yaml: tune.max_parameters: 'seed' given; this variant is now named stn"


@pytest.mark.parametrize(
    ("setting", "given", "said"),
    [
        ("localization_lrr", 0.1, "localization_lrr: unknown setting; did you mean localization_lr?"),
        ("transformer.localization.kernel_sizes", [7], "[7] given for channels [8, 10]; one for each layer"),
        ("transformer.localization.channels", [], "[7, 5] given for channels []; one for each layer"),
        ("transformer.localization.hidden", [32, 0], "0 given"),
        ("classifier", {"channels": [8]}, "[5, 5] given for channels [8]; one for each layer"),
        ("classifier", {"hidden": 50}, "50 given"),
        ("classifier", {"hiden": [50]}, "did you mean hidden?"),
        ("transformer.localization.hidden", 0, "0 given"),
        ("transformer.padding_mode", "wrap", "'wrap' given"),
        ("transformer", "affine", "'affine' given"),
        ("localization_lr", 0, "0 given"),
        ("transformer.transform", "rigid", "'rigid' given"),
        ("transformer.transform", [], "[] given"),
        ("transformer.transform", ["affine", "rigid"], "'rigid' given"),
        ("transformer.scale", 0.5, "0.5 given; only attention has it, not affine"),
        ("transformer.control_points", 4, "4 given; only tps has it, not affine"),
        ("transformer.bound", 0, "0 given"),
        ("transformer.parallel", 0, "0 given"),
        ("transformer.output_size", 2, "2 given"),
        ("transformer.antialias", 0, "0 given"),
    ],
)
def test_a_variants_mistake_names_its_file(setting, given, said):
    edit(setting, given, "variants/stn.yaml")
    answer = refusal(load_params)
    assert answer.startswith("variants/stn.yaml: ") and said in answer and len(answer.splitlines()) == 1


@pytest.mark.parametrize(
    "settings",
    [
        {"transform": "tps", "control_points": 5, "bound": 0.3},
        {"transform": "projective", "output_size": 16, "antialias": 2},
        {"transform": "attention", "scale": 0.5, "parallel": 2},
        {"transform": ["affine", "tps"], "control_points": 3},
    ],
)
def test_a_variant_may_have_any_of_the_papers_transformers(settings):
    for name, value in settings.items():
        edit(f"transformer.{name}", value, "variants/stn.yaml")
    variant = load_variant("stn").transformer
    assert variant is not None
    assert {name: getattr(variant, name) for name in settings} == settings
    if isinstance(settings["transform"], list):
        edit("transformer.parallel", 2, "variants/stn.yaml")
        assert "transformer.parallel: 2 given with the series ['affine', 'tps']" in refusal()


# No setting accepts any of these, with the exceptions in VALID.
WRONG = {
    "nan": float("nan"), "inf": float("inf"), "-inf": float("-inf"), "negative": -1, "negative fraction": -0.5,
    "beyond all range": 10**400, "empty list": [], "list of nothing": [None], "list of lists": [[]], "text": "no such",
    "empty text": "", "line break": "a\nb", "empty mapping": {}, "mapping": {"low": "a"}, "date": date(2026, 1, 1),
    "bytes": b"\xff", "long text": "a " * 5000,
}  # fmt: skip
TEXTS = ("text", "line break", "long text")
VALID = (
    {("register.tags", kind) for kind in ("mapping", "empty mapping")}
    | {(f"data.{name}", kind) for name in ("source", "group", "table.file") for kind in TEXTS}
    | {("tune.search_space.at", "empty list"), ("tune.search_space.backbone", "empty list")}
    | {("tune.search_space.alignment_weight", "empty list")}
)


@pytest.mark.parametrize("kind", WRONG)
def test_a_value_of_a_wrong_kind_is_refused_at_every_setting(kind):
    """The message has three lines at most, and the first names the setting."""
    unclear = {}
    tried = [leaf for leaf in leaves(SHIPPED) if (leaf, kind) not in VALID]
    value = through_yaml(WRONG[kind])
    for leaf in tried:
        said = refusal(check_with, leaf, value)
        named = leaf.removesuffix(".low").removesuffix(".high")  # the message may be about the other end of the range
        if not said.startswith(f"params.yaml: {named}") or len(said.splitlines()) > 3 or len(said) > 400:
            unclear[leaf] = said
    assert unclear == {} and len(tried) > 60
    edit(tried[0], WRONG[kind])
    assert refusal() == refusal(check_with, tried[0], value), "a file is refused alike"


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@FUZZ
@given(leaf=st.sampled_from(leaves(SHIPPED)), junk=JUNK)
def test_any_value_is_accepted_or_refused_by_name(leaf, junk):
    said = ""
    try:
        values = check_with(leaf, through_yaml(junk)).model_dump(by_alias=True)
    except UserError as error:
        values, said = {}, str(error)
    assert leaf in said if said else junk is None or get(values, leaf) == junk


@pytest.mark.slow
@FUZZ
@given(
    mistakes=st.dictionaries(st.sampled_from(leaves(SHIPPED)), st.sampled_from(sorted(WRONG)), min_size=1, max_size=9),
    unknown=st.dictionaries(st.text(max_size=80) | st.integers() | st.none(), JUNK, max_size=3),
    section=st.sampled_from(["data", "tune.search_space", "train", "promote"]),
)
def test_many_mistakes_at_once_are_three_lines(mistakes, unknown, section):
    document = copy.deepcopy(SHIPPED)
    wrong = {leaf: kind for leaf, kind in mistakes.items() if (leaf, kind) not in VALID}
    added = {key: value for key, value in unknown.items() if key not in get(document, section)}
    get(document, section).update(through_yaml(added))
    for leaf, kind in wrong.items():
        place(document, leaf, through_yaml(WRONG[kind]))
    if not wrong and not added:
        return
    lines = refusal(check_params, document, PARAMS_FILE).splitlines()
    assert 1 <= len(lines) <= 3 and all("params.yaml: " in line for line in lines)


@pytest.mark.parametrize(
    "value",
    [
        "!!bool x", "!!int ''", "!!binary x", "!!python/object:os.system x", "{? [1]: 2}", "{<<: 1}", "&a [*a]", "\0",
        "[" * 500, "9" * 5000, "*nowhere", '{"a\\nb": 1}',
    ],
)  # fmt: skip
@pytest.mark.parametrize("leaf", ["train.lr", "train.seeds", "register.tags"])
def test_errors_of_yaml_are_one_line(leaf, value):
    edit(leaf, "HERE")
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace("HERE", value), encoding="utf-8")
    assert len(refusal().splitlines()) == 1


def test_a_value_that_aliases_make_huge_is_refused_at_once():
    """Each line contains the previous one nine times: 9**9 values."""
    lines = ["x0: &x0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"x{i}: &x{i} [{', '.join([f'*x{i - 1}'] * 9)}]" for i in range(1, 9)]
    edit("train.lr", "HERE")
    text = Path("params.yaml").read_text().replace("HERE", "*x8")
    Path("params.yaml").write_text("\n".join(lines) + "\n" + text)
    started = time.process_time()
    said = refusal()
    assert time.process_time() - started < 2 and len(said) < 400 and "more mistakes" in said


@pytest.mark.parametrize("size", [8, [8, 30], [30, 8]])
def test_a_shift_as_large_as_the_image_is_refused(size):
    """It could not be filled by reflection."""
    edit("data.size", size)
    edit("train.shift", 8)
    assert refusal().startswith(f"params.yaml: train.shift: 8 given; images of data.size {size} ")
    edit("train.shift", 7)
    load_params()


def test_a_distortion_that_never_reaches_its_size_is_refused():
    for setting, others in (("train.epochs", ("tune.epochs", 9)), ("tune.epochs", ("train.epochs", 9))):
        edit(setting, 4)
        edit(*others)
        edit("train.distortion_ramp", 4)
        assert refusal() == (
            f"params.yaml: train.distortion_ramp: 4 given; less than {setting}: 4 is allowed, or no epoch has "
            "the whole distortion"
        )
        edit("train.distortion_ramp", 3)
        load_params()
    edit("tune.trials", 0)
    edit("train.distortion_ramp", 8)
    load_params()


def test_a_size_is_one_number_or_two_and_a_color_is_for_color_images():
    edit("data.dataset", "mine")
    for size, expected in ((40, (3, 40, 40)), ([24, 94], (3, 24, 94))):
        edit("data.size", size)
        assert load_params().data.form.shape == expected
    edit("data.fit", "pad")
    for fill in (9, [1, 2, 3], "edge"):
        edit("data.fill", fill)
        form = load_params().data.form
        assert (form.fit, form.fill) == ("pad", fill)
    edit("data.channels", 1)
    load_params()
    edit("data.fill", [1, 2, 3])
    assert refusal() == "params.yaml: data.fill: [1, 2, 3] given with channels: 1; one number, or edge"


@FUZZ
@given(
    leaf=st.sampled_from(leaves(SHIPPED)),
    text=st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=12)
    | st.from_regex(r"\d{4}-\d\d-\d\d", fullmatch=True),
)
@example(leaf="train.lr", text="2020-13-45")
@example(leaf="train.lr", text="!!int x")
def test_any_text_is_accepted_or_refused(leaf, text):
    """Values as typed, before YAML parses them: invalid dates, tags, half a list."""
    Path("short.yaml").write_text(f"a:\n  before: 1\n  value: {text}\n  after: 1\n", encoding="utf-8")
    with suppress(UserError):
        check_with(leaf, read_yaml(Path("short.yaml"), YAML(typ="safe"))["a"]["value"])


def test_setting_a_value_changes_its_line_alone(capsys):
    before = Path("params.yaml").read_text().splitlines()
    set_value("train.lr=0.05")
    after = Path("params.yaml").read_text().splitlines()
    assert load_params().train.lr == 0.05
    changed = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    (old, new), *others = changed
    assert others == []
    assert new.split("#")[0].split() == ["lr:", "0.05"] and new.split("#")[1:] == old.split("#")[1:]
    assert "train.lr" in capsys.readouterr().out


def test_setting_a_list_keeps_every_comment():
    comments = [line.partition("#")[2] for line in Path("params.yaml").read_text().splitlines() if "#" in line]
    set_value("train.seeds=[3, 5]")
    set_value("variants=[stn]")
    text = Path("params.yaml").read_text()
    assert [line.partition("#")[2] for line in text.splitlines() if "#" in line] == comments
    assert (load_params().train.seeds, load_params().variants) == ([3, 5], ["stn"])


@pytest.mark.parametrize(
    "assignment",
    [
        "train.lr=!!bool x", "train.lr=!!set {a}", "train.lr=-1", "train.nope=1", "nope.lr=1", "train.lr.x=1",
        "train=5", "train.lr", "variants=[nope]", "train.seeds=[0", "train.lr=2020-13-45",
    ],
)  # fmt: skip
def test_a_refused_value_leaves_the_file_as_it_was(assignment):
    before, status = Path("params.yaml").read_bytes(), Path("params.yaml").stat()
    said = refusal(set_value, assignment)
    assert Path("params.yaml").read_bytes() == before
    assert Path("params.yaml").stat() == status, "the file was written"
    assert assignment.split("=")[0] in said


def test_a_misspelled_name_is_not_set_but_corrected():
    assert (
        refusal(set_value, "train.wamrup=0.1")
        == "params.yaml: train.wamrup: no such setting; did you mean train.warmup?"
    )
    Path("params.yaml").write_text("train: [")
    assert refusal(set_value, "train.lr=1").startswith("params.yaml:1: not valid YAML: ")


def test_a_refused_value_leaves_line_ends_as_they_were():
    before = Path("params.yaml").read_bytes().replace(b"\n", b"\r\n")
    Path("params.yaml").write_bytes(before)
    refusal(set_value, "train.lr=-1")
    assert Path("params.yaml").read_bytes() == before


@pytest.mark.parametrize("path", ["/data/cifar10.zip", "/data/my images", "/data/set #2", "/data/a: b", "/data/2020"])
def test_a_path_is_set_as_it_is(path):
    """`make repro SOURCE=path` sets it like this."""
    set_value(f"data.source={path}")
    assert load_params().data.source == path


def git(*arguments: str) -> None:
    subprocess.run(["git", *arguments], check=True, capture_output=True)


def test_a_source_is_stored_as_dvc_will_read_it(tmp_path, monkeypatch):
    """Without ~ and variables; absolute if a temporary work tree would lack it."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("home/mine", "kept", "ignored", "tracked by dvc", "$HOME"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("kept/a.png", "tracked by dvc.dvc"):
        (tmp_path / name).touch()
    (tmp_path / ".gitignore").write_text("/ignored\n/tracked*\n!*.dvc\n")
    git("init")
    git("add", "kept", "tracked by dvc.dvc")
    for source, stored in {
        "~/mine": f"{tmp_path}/home/mine", "$HOME/mine": f"{tmp_path}/home/mine",
        "${HOME}/gone": f"{tmp_path}/home/gone",
        "kept": "kept", "tracked by dvc": "tracked by dvc", "ignored": f"{tmp_path}/ignored", "gone": "gone",
        "$HOME": f"{tmp_path}/$HOME",
    }.items():  # fmt: skip
        set_value(f"data.source={source}")
        assert load_params().data.source == stored
    set_source("kept")
    assert load_params().data.source == f"{tmp_path}/kept"
    assert refusal(set_source, "~/gone") == "SOURCE: '~/gone' given; there is no such file or folder"
    assert refusal(set_source, "~no-such-user/x").startswith("SOURCE: '~no-such-user/x' given; ")
    assert refusal(set_value, "data.source=~no-such-user/x").startswith("params.yaml: data.source: '~no-such-user/x'")


@pytest.mark.parametrize("source", ["~/mine", "$HOME/mine", "/data/${HOME}"])
def test_a_source_that_dvc_reads_otherwise_is_refused(source):
    edit("data.source", source)
    expanded = os.path.expandvars(Path(source).expanduser())
    wanted = f"data.source: {source!r} given; DVC replaces neither ~ nor variables; write {expanded!r}"
    assert refusal() == f"params.yaml: {wanted}"


@pytest.mark.parametrize("stage", ["prepare", "train --variant stn", "evaluate", "visualize", "register"])
def test_a_stage_refuses_bad_settings_before_anything_heavy_is_imported(stage, tmp_path):
    edit("train.lr", "fast")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", *f"pipelines.{stage}".split()],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)  # processor time does not depend on other processes
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert done.returncode == 2 and seconds < 2
    assert len(said) <= 3 and "train.lr" in said[0] and "Traceback" not in done.stderr
    assert "pipelines.settings.params" in imported  # the list of imports is not empty
    assert imported.isdisjoint({"torch", "ray", "mlflow", "sklearn", "scipy", "matplotlib"})
