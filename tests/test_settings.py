"""Every setting has an effect: each leaf of params.yaml and of variants/*.yaml is changed and something must follow.

The stages run in this process, from the settings files to their outputs, on 96 tiny images. Stand-ins replace Ray,
which here calls the worker directly, and MLflow's store.
"""

import copy
import hashlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import ray.train
import torch
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial, TrialState
from PIL import Image
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from pipelines.commands import clean
from pipelines.evaluation import significance as comparison
from pipelines.evaluation.run import evaluate
from pipelines.networks.build import count_parameters, network_settings
from pipelines.outputs.motions import MOTIONS, UNDONE_MOTIONS
from pipelines.outputs.prepared_data import DatasetMeta, Labeled, load_meta, load_split
from pipelines.outputs.tuning_results import TuningResults
from pipelines.preparation.run import prepare_source
from pipelines.registry import registration
from pipelines.registry.export import NewVersion
from pipelines.registry.gates import Candidate, GroundTruth, check_gates
from pipelines.registry.theta_tags import ThetaTags
from pipelines.runtime.cores import Cores
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import read_json, write_json
from pipelines.settings.dotted_names import flatten
from pipelines.settings.params import Params, load_params
from pipelines.settings.variants import ConvClassifierParams, load_variant
from pipelines.training import distributed, local, seed_training
from pipelines.training import run as train_module
from pipelines.training.checkpoints import checkpoints
from pipelines.training.messages import EpochDone, Message, WorkersStarted
from pipelines.training.run import train
from pipelines.tuning import study
from pipelines.tuning import trial_pool as trials
from pipelines.tuning.run import tune
from pipelines.tuning.search_space import to_variant
from pipelines.visualization import theta
from pipelines.visualization.run import visualize
from stn.batches import Batches

ROOT = Path(__file__).resolve().parents[1]
FILES = ("params.yaml", "variants/plain.yaml", "variants/stn.yaml")
# The settings of every run here; a check changes one leaf.
TINY = {
    "data.dataset": "tiny", "data.size": 28, "data.channels": 1, "data.distortion.rotation": 30,
    "data.distortion.scale": [0.7, 1.0], "data.distortion.shift": 0.1, "prepare.validation": 0.25,
    "prepare.test": 0.25, "train.epochs": 2, "train.batch_size": 16, "train.lr": 0.02, "train.flip": False,
    "train.shift": 0, "train.precision": "fp32", "evaluate.batch_size": 10, "evaluate.resamples": 200,
    "visualize.examples": 2, "variants": ["plain", "stn"], "tune.trials": 9, "tune.epochs": 3,
    "tune.max_parameters": "none", "tune.finalists": 1,
}  # fmt: skip
SPLITS = ("train", "validation", "test")


def leaves(tree: dict, *above: str) -> list[str]:
    """Dotted names of all settings; one whose default is an empty mapping is a setting too."""
    found = []
    for name, value in tree.items():
        found += leaves(value, *above, name) if isinstance(value, dict) and value else [".".join((*above, name))]
    return found


@cache
def shipped(file: str) -> Any:
    """The parsed content of a file of settings. Do not change it."""
    return YAML(typ="safe").load((ROOT / file).read_text())


def all_leaves() -> set[str]:
    """Every leaf of params.yaml, and of the variants' files with the file's name before it."""
    return {leaf if file == "params.yaml" else f"{file}:{leaf}" for file in FILES for leaf in leaves(shipped(file))}


class Trained(SimpleNamespace):
    """The outputs of a training with one seed, and its requests to Ray; ``asked`` is None if it needs no cluster."""

    weights: dict[str, torch.Tensor]
    history: list[dict]
    files: set[str]
    epochs: list[tuple[int, list[int]]]  # for each epoch: the number of images, and the sizes of the batches
    asked: Any
    threads: list[int]
    started: WorkersStarted


class Tuned(SimpleNamespace):
    """The outputs of tuning: its results, the trials that count, the finals done, and the options of each worker."""

    results: TuningResults
    trials: list[FrozenTrial]
    finals: list[str]
    workers: list[dict[str, float]]

    @property
    def drawn(self) -> list[FrozenTrial]:
        """The trials with values from the sampler: all except the baseline."""
        return self.trials[1:]


class Bench:
    """Runs stages, each time in a new folder, with some settings changed."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch):
        self.folder, self.patch = folder, patch
        self.runs = 0
        self.base: dict[str, Any] = {}  # settings added to the tiny ones, not counted as changed
        self.changed: set[str] = set()
        self.epochs: list[tuple[int, list[int]]] = []
        self.ordered: list[int] = []
        self.threads: list[int] = []
        self.asked: Any = None
        self.messages: list[Message] = []
        self.hired: list[dict[str, float]] = []
        self.resources = {"CPU": 8.0}
        self.patch.delenv("OPTUNA_STORAGE", raising=False)
        self._write_source("source", 0)
        self._write_source("another", 24)
        self.patch.setattr(os, "fsync", lambda _: None)  # thousands of calls; no power fails here
        self._stand_in_for_ray()
        self._stand_in_for_mlflow()
        self._watch_batches()

    def _write_source(self, name: str, first: int) -> None:
        digits: Any = load_digits()
        for label in range(4):
            target = self.folder / name / str(label)
            target.mkdir(parents=True)
            for i, image in enumerate(digits.images[digits.target == label][first : first + 24]):
                Image.fromarray(np.uint8(image * 15)).save(target / f"{i:02}.png")

    node = {"Alive": True, "NodeID": "0a" * 28, "NodeManagerAddress": "127.0.0.1"}  # noqa: RUF012

    def _stand_in_for_ray(self) -> None:
        bench = self

        class Mailbox:
            def send(self, message):
                bench.messages.append(message)

            def drain(self):
                return []

        class TorchTrainer:
            def __init__(self, function, **options):
                bench.asked = SimpleNamespace(**options)
                self.work = lambda: function(options["train_loop_config"])

            def fit(self):
                self.work()

        class DirectSender(local.DirectSender):
            def send(self, message):
                bench.messages.append(message)
                super().send(message)

        context = SimpleNamespace(
            get_world_rank=lambda: 0, get_world_size=lambda: 1, get_local_world_size=lambda: 1
        )  # fmt: skip
        self._replace("Mailbox", Mailbox)
        self._replace("connected", nullcontext)
        self.patch.setattr(distributed, "TorchTrainer", TorchTrainer)
        self.patch.setattr(ray.train, "get_context", lambda: context)
        self._replace("DirectSender", DirectSender)
        self._replace("usable_cores", lambda: Cores(int(self.resources["CPU"])))

        class Hired:
            def __init__(self, options, arguments):
                bench.hired.append(options)
                worker = trials.Worker(*arguments)
                self.train_epochs = SimpleNamespace(remote=lambda *tasks: Answer(worker.train_epochs(*tasks)))
                self.measure_precision = SimpleNamespace(
                    remote=lambda *network: Answer(worker.measure_precision(*network))
                )

        class Answer:
            def __init__(self, value):
                self.value = value

        hire = SimpleNamespace(
            options=lambda **options: SimpleNamespace(remote=lambda *arguments: Hired(options, arguments))
        )
        self.patch.setattr(trials, "RemoteWorker", hire)
        self._replace("save_figures", lambda *_: [])  # takes seconds and reads no setting
        self.patch.setattr(ray, "wait", lambda waiting, **_: (waiting[:1], waiting[1:]))
        self.patch.setattr(ray, "put", lambda value: value)
        self.patch.setattr(ray, "get", lambda value, **_: value.value if isinstance(value, Answer) else value)
        self.patch.setattr(ray, "nodes", lambda: [self.node | {"Resources": self.resources}])
        context_of_driver = SimpleNamespace(get_node_id=lambda: self.node["NodeID"])
        self.patch.setattr(ray, "get_runtime_context", lambda: context_of_driver)
        self._replace("get_device", lambda: torch.device("cpu"))
        self.patch.setattr(torch, "set_num_threads", self.threads.append)

    def _stand_in_for_mlflow(self) -> None:
        for name in ("connect", "experiment_id", "Outbox", "TrainingRun", "log_metrics", "log_files"):
            self._replace(name, MagicMock())
        # Its id is written to a file.
        self._replace("TrainingRun", lambda *_: MagicMock(run_id="a1"))
        self._replace("run_exists", lambda *_: True)
        self._replace("aliases_of", lambda *_: {})
        self._replace("list_versions", lambda *_: [])
        self._replace("promotion_lock", lambda *_: nullcontext())
        self._replace("apply_decision", MagicMock())
        self._replace("export", lambda *_: {})  # takes seconds and reads no setting

    def _replace(self, name: str, stand_in: Any) -> None:
        """Replace a function or class in every module that has imported it by name."""
        modules = [m for n, m in sys.modules.items() if n.startswith("pipelines.") and name in vars(m)]
        assert modules, name
        for module in modules:
            self.patch.setattr(module, name, stand_in)

    def _watch_batches(self) -> None:
        shuffled, ordered = Batches.shuffled, Batches.ordered

        def watched(batches, *arguments) -> Iterator:
            sizes = []
            self.epochs.append((len(batches), sizes))
            for images, labels in shuffled(batches, *arguments):
                sizes.append(len(labels))
                yield images, labels

        def counted(batches, *arguments) -> Iterator:
            for images, labels in ordered(batches, *arguments):
                self.ordered.append(len(labels))
                yield images, labels

        self.patch.setattr(Batches, "shuffled", watched)
        self.patch.setattr(Batches, "ordered", counted)

    def settings(self, changes: dict[str, Any]) -> Params:
        """Enter a new folder whose settings are the tiny ones with ``changes``, and read them there."""
        self.runs += 1
        self.changed |= set(changes)
        folder = self.folder / f"run-{self.runs}"
        (folder / "variants").mkdir(parents=True)
        wanted = {"data.source": str(self.folder / "source")} | TINY | self.base | changes
        for file in FILES:
            document = copy.deepcopy(shipped(file))
            for name, value in wanted.items():
                where, _, dotted = name.rpartition(":")
                if (where or "params.yaml") == file:
                    *sections, key = dotted.split(".")
                    place = document
                    for section in sections:
                        place = place[section]
                    assert key in place, name
                    place[key] = value
            with (folder / file).open("w") as stream:
                YAML(typ="safe").dump(document, stream)
        self.patch.chdir(folder)
        self.patch.setenv("DVC_ROOT", str(folder))
        return load_params()

    def prepare(self, changes: dict[str, Any]) -> tuple[DatasetMeta, dict[str, Labeled]]:
        """The stage prepare: meta.json and the three splits."""
        params = self.settings(changes)
        prepare_source(params.data, params.prepare)
        return load_meta(), {split: load_split(split) for split in SPLITS}

    def train(self, changes: dict[str, Any], variant: str = "stn", with_data: bool = False) -> Trained:
        """The stage train on the tiny data, which are prepared again with the changes if ``with_data`` is set."""
        params = self.settings(changes)
        if with_data:
            prepare_source(params.data, params.prepare)
        else:
            self._bring(self.prepared, "data")
        for seen in (self.epochs, self.threads, self.messages):
            seen.clear()
        self.asked = None
        train(variant, params, load_variant(variant))
        model = Path("models") / variant
        return Trained(
            weights=load_file(model / "0.safetensors"),
            history=read_json(model / "training.json")["runs"]["0"]["history"],
            files={file.name for file in model.iterdir()},
            epochs=list(self.epochs), asked=self.asked, threads=list(self.threads),
            started=next(message for message in self.messages if isinstance(message, WorkersStarted)),
        )  # fmt: skip

    def evaluate(self, changes: dict[str, Any]) -> tuple[dict, list[int], str]:
        """The stage evaluate: its metrics, the sizes of the batches asked for, and the table."""
        params = self.settings(changes)
        self._bring(self.models, "data", "models")
        self.ordered.clear()
        metrics = evaluate(params.variants, params.evaluate).to_json()
        return metrics, list(self.ordered), Path("reports/comparison.md").read_text()

    def tune(self, changes: dict[str, Any]) -> Tuned:
        """The stage tune on the tiny data."""
        params = self.settings(changes)
        self._bring(self.prepared, "data")
        self.hired.clear()
        results = tune(params, load_variant("stn"))
        assert results.study is not None
        with study.open_study(results.study, params.tune) as opened:
            return Tuned(
                results=results,
                trials=study.finished_trials(opened),
                finals=[name for name in opened.user_attrs if name.startswith("final ")],
                workers=list(self.hired),
            )

    def tune_briefly(self, changes: dict[str, Any]) -> Tuned:
        """The same with one epoch for each trial and final: enough to see what is drawn, and who trains what."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self, "base", {"tune.epochs": 1, "train.epochs": 1})
            return self.tune(changes)

    @cache  # noqa: B019
    def tuned(self) -> Tuned:
        """Tuned with no setting changed."""
        return self.tune({})

    @cache  # noqa: B019
    def tuned_briefly(self) -> Tuned:
        """Tuned briefly with no setting changed."""
        return self.tune_briefly({})

    @cache  # noqa: B019
    def evaluated(self) -> tuple[dict, list[int], str]:
        """Evaluated with no setting changed."""
        results = self.evaluate({})
        self.evaluated_in = Path.cwd()
        return results

    def after_evaluate(self, changes: dict[str, Any]) -> Params:
        """Settings in a folder where everything up to evaluate is done; ``changes`` are of later stages."""
        self.evaluated()
        params = self.settings(changes)
        self._bring(lambda: self.evaluated_in, "data", "models", "metrics", "plots", "reports")
        Path("reports/report.html").touch()
        TuningResults(winner="stn").write()
        return params

    def _bring(self, made: Callable[[], Path], *folders: str) -> None:
        here = Path.cwd()
        source = made()
        self.patch.chdir(here)
        self.patch.setenv("DVC_ROOT", str(here))
        for folder in folders:
            shutil.copytree(source / folder, folder)

    @cache  # noqa: B019, one bench lives as long as its tests
    def prepared(self) -> Path:
        """A folder with the tiny data prepared."""
        self.prepare({})
        return Path.cwd()

    @cache  # noqa: B019
    def trained(self) -> Trained:
        """The variant stn trained with no setting changed."""
        return self.train({})

    @cache  # noqa: B019
    def models(self) -> Path:
        """A folder with trained variants whose last layer is then overwritten: plain predicts class 0, stn class 1."""
        params = self.settings({})
        self._bring(self.prepared, "data")
        for answer, name in enumerate(("plain", "stn")):
            train(name, params, load_variant(name))
            file = Path("models") / name / "0.safetensors"
            weights = load_file(file)
            *_, weight, bias = (key for key in weights if key.startswith("classifier"))
            weights[weight].zero_()
            weights[bias].zero_()[answer] = 1
            save_file(weights, file)
        return Path.cwd()


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # networks this small only wait for a second one
    with pytest.MonkeyPatch.context() as patch:
        yield Bench(tmp_path_factory.mktemp("bench"), patch)
    torch.set_num_threads(threads)


CHECKS: dict[str, Callable[[Bench], None]] = {}


def check(leaf: str):
    def keep(function: Callable[[Bench], None]) -> Callable[[Bench], None]:
        assert leaf not in CHECKS
        CHECKS[leaf] = function
        return function

    return keep


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def changes_weights(leaf: str, value: Any) -> None:
    """Check that ``value`` gives other weights. Another test checks that equal settings give equal weights."""

    @check(leaf)
    def _(bench: Bench) -> None:
        changed = bench.train({leaf: value})
        assert changed.history[-1]["validation_loss"] != bench.trained().history[-1]["validation_loss"]
        assert not same(changed.weights, bench.trained().weights)


def changes_distortion(leaf: str, value: Any) -> None:
    """Check that the stored validation and test images change, and that the training images change in training."""

    @check(leaf)
    def _(bench: Bench) -> None:
        _, before = bench.prepare({})
        _, after = bench.prepare({leaf: value})
        assert torch.equal(before["train"].images, after["train"].images)
        for split in ("validation", "test"):
            assert not torch.equal(before[split].images, after[split].images)
        seen = bench.train({leaf: value}, with_data=True)
        assert seen.history[0]["train_loss"] != bench.trained().history[0]["train_loss"]


def changes_shape(leaf: str, value: Any, tensor: str, shape: tuple[int, ...]) -> None:
    """Check that the trained network's ``tensor`` has ``shape``, and another shape without ``value``."""

    @check(leaf)
    def _(bench: Bench) -> None:
        assert bench.trained().weights[tensor].shape != shape
        assert bench.train({leaf: value}).weights[tensor].shape == shape


@check("variants")
def _(bench: Bench) -> None:
    assert bench.evaluated()[0].keys() == {"variants", "pairs", "metric"}
    assert list(bench.evaluated()[0]["variants"]) == ["plain", "stn"]
    metrics, _, table = bench.evaluate({"variants": ["stn"]})
    assert list(metrics["variants"]) == ["stn"] and metrics["pairs"] == {} and "plain" not in table


@check("data.dataset")
def _(bench: Bench) -> None:
    assert bench.prepare({})[0].dataset == "tiny"
    assert bench.prepare({"data.dataset": "other"})[0].dataset == "other"


@check("data.source")
def _(bench: Bench) -> None:
    before, after = bench.prepare({})[0], bench.prepare({"data.source": str(bench.folder / "another")})[0]
    assert before.source.startswith("source ") and after.source.startswith("another ")
    assert before.digest != after.digest


@check("data.size")
def _(bench: Bench) -> None:
    assert bench.prepare({})[1]["test"].images.shape == (24, 1, 28, 28)
    meta, splits = bench.prepare({"data.size": 30})
    assert splits["test"].images.shape == (24, 1, 30, 30) and meta.image_shape == (1, 30, 30)
    meta, splits = bench.prepare({"data.size": [24, 40]})
    assert splits["test"].images.shape == (24, 1, 24, 40) and meta.image_shape == (1, 24, 40)


@contextmanager
def tiny_data(**values: Any) -> Iterator[None]:
    """The section ``data`` of every run is changed."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in values.items():
            patch.setitem(TINY, f"data.{name}", value)
        yield


@check("data.fit")
def _(bench: Bench) -> None:
    with tiny_data(size=[28, 56]):
        meta, splits = bench.prepare({"data.fit": "pad"})
        (left, middle, right), cropped = (
            splits["train"].images.split((14, 28, 14), 3),
            bench.prepare({"data.fit": "crop"}),
        )
        stretched = bench.prepare({})[1]["train"].images
    assert meta.fit == "pad" and torch.equal(middle, bench.prepare({})[1]["train"].images)
    assert left.count_nonzero() == right.count_nonzero() == 0
    assert cropped[0].fit == "crop" and cropped[1]["train"].images.shape == stretched.shape
    assert not torch.equal(cropped[1]["train"].images, stretched)


@check("data.fill")
def _(bench: Bench) -> None:
    with tiny_data(size=[28, 56], fit="pad"):
        meta, splits = bench.prepare({"data.fill": 99})
        assert meta.fill == 99 and (splits["train"].images[..., :14] == 99).all()
        assert bench.prepare({})[0].digest != meta.digest


@check("data.skip_broken")
def _(bench: Bench) -> None:
    damaged = bench.folder / "damaged"
    shutil.copytree(bench.folder / "source", damaged)
    (damaged / "0" / "24.png").write_bytes(b"no image")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, "data.source", str(damaged))
        with pytest.raises(ExternalError, match=r"0/24\.png"):
            bench.prepare({})
        meta, _ = bench.prepare({"data.skip_broken": True})
    assert list(meta.broken) == ["0/24.png"] and sum(meta.counts.values()) == 96


@check("data.pixel_range")
def _(bench: Bench) -> None:
    deep = bench.folder / "deep"
    for label in "ab":
        (deep / label).mkdir(parents=True)
        for i in range(16):
            pixels = np.random.default_rng(i).integers(0, 4096, (28, 28)).astype(np.uint16)
            Image.fromarray(pixels).save(deep / label / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TINY, "data.source", str(deep))
        before, _ = bench.prepare({})
        after, _ = bench.prepare({"data.pixel_range": [0.0, 8190.0]})
    assert (before.pixel_range, after.pixel_range) == ([0, 4095], [0, 8190])
    assert after.mean == pytest.approx([before.mean[0] / 2], rel=0.1)


@cache
def tabled(bench: Bench) -> Path:
    """A source of two tables with several columns for everything. The classes of its columns are 0/1 and p/q."""
    folder = bench.folder / "tabled"
    folder.mkdir()
    rows = [{"file_name": f"{i}.png", "other": f"{(i + 1) % 96}.png", "label": i % 2, "name": "pq"[i // 48],
             "split": "train", "part": "val" if i % 5 == 0 else "train", "who": i // 3, "x": 2, "y": 2, "z": 20}
            for i in range(96)]  # fmt: skip
    for i in range(96):
        pixels = np.random.default_rng(i).integers(0, 256, (28, 28), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    for name, written in (("t.csv", rows), ("less.csv", rows[:90])):
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in written)]
        (folder / name).write_text("\n".join(lines))
    return folder


def changes_table(leaf: str, value: Any, changed: Callable[[DatasetMeta], Any], **base: Any) -> None:
    """Check that ``changed`` of the prepared table differs by one setting."""

    @check(leaf)
    def _(bench: Bench) -> None:
        with pytest.MonkeyPatch.context() as patch:
            settings = {"data.source": str(tabled(bench)), "data.table.file": "t.csv"}
            settings |= {f"data.{name.replace('__', '.')}": given for name, given in base.items()}
            for name, given in settings.items():
                patch.setitem(TINY, name, given)
            before, after = bench.prepare({})[0], bench.prepare({leaf: value})[0]
        assert changed(before) != changed(after)


BOX = ["x", "y", "z", "z"]
changes_table("data.table.file", "less.csv", lambda meta: sum(meta.counts.values()))
changes_table("data.table.image", "other", lambda meta: meta.digest)
changes_table("data.table.label", "name", lambda meta: meta.classes)
changes_table("data.table.split", "part", lambda meta: meta.counts)
changes_table("data.table.group", "who", lambda meta: meta.groups)
changes_table("data.table.box", BOX, lambda meta: meta.digest)
changes_table("data.table.box_form", "exclusive", lambda meta: meta.digest, table__box=BOX)
changes_table("data.group", r"^(.)", lambda meta: meta.groups, table__label="name")


@check("data.channels")
def _(bench: Bench) -> None:
    meta, splits = bench.prepare({"data.channels": 3})
    assert splits["test"].images.shape == (24, 3, 28, 28) and len(meta.mean) == 3


changes_distortion("data.distortion.protocol", "E")
changes_distortion("data.distortion.rotation", 60)
changes_distortion("data.distortion.scale", [0.5, 0.6])
changes_distortion("data.distortion.shift", 0.3)
changes_distortion("data.distortion.padding_mode", "border")


@check("prepare.validation")
def _(bench: Bench) -> None:
    assert bench.prepare({})[0].counts == {"train": 54, "validation": 18, "test": 24}
    assert bench.prepare({"prepare.validation": 0.5})[0].counts == {"train": 36, "validation": 36, "test": 24}


@check("prepare.test")
def _(bench: Bench) -> None:
    assert bench.prepare({"prepare.test": 0.5})[0].counts == {"train": 36, "validation": 12, "test": 48}


@check("prepare.seed")
def _(bench: Bench) -> None:
    (_, before), (_, after) = bench.prepare({}), bench.prepare({"prepare.seed": 1})
    assert sorted(before["train"].images.sum((1, 2, 3)).tolist()) != sorted(
        after["train"].images.sum((1, 2, 3)).tolist()
    )


@check("tune.trials")
def _(bench: Bench) -> None:
    assert (len(bench.tuned_briefly().trials), len(bench.tune_briefly({"tune.trials": 5}).trials)) == (9, 5)


@check("tune.epochs")
def _(bench: Bench) -> None:
    def longest(tuned: Tuned) -> int:
        return max(len(trial.intermediate_values) for trial in tuned.trials)

    assert (longest(bench.tuned()), longest(bench.tune({"tune.epochs": 1}))) == (3, 1)


@check("tune.seed")
def _(bench: Bench) -> None:
    before, after = bench.tuned_briefly(), bench.tune_briefly({"tune.seed": 5})
    assert before.trials[0].params == after.trials[0].params, "the first trial is the baseline network"
    assert all(one.params != other.params for one, other in zip(before.drawn, after.drawn, strict=True))
    assert before.trials[0].intermediate_values != after.trials[0].intermediate_values


@check("tune.sampler")
def _(bench: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "resources", {"CPU": 1.0})  # one trial after another, each after what the last has shown
        before, after = bench.tune_briefly({}), bench.tune_briefly({"tune.sampler": "random"})
    alike = [one.params == other.params for one, other in zip(before.trials, after.trials, strict=True)]
    assert alike == [True] * 4 + [False] * 5, "the first four are drawn at random by either"


@check("tune.pruner")
def _(bench: Bench) -> None:
    def pruned(tuned: Tuned) -> int:
        return sum(trial.state == TrialState.PRUNED for trial in tuned.trials)

    assert pruned(bench.tuned()) > 0 == pruned(bench.tune({"tune.pruner": "none"}))


@check("tune.max_parameters")
def _(bench: Bench) -> None:
    def largest(tuned: Tuned) -> int:
        variants = [to_variant(trial.params, ConvClassifierParams()) for trial in tuned.trials]
        return max(count_parameters(network_settings(variant, (1, 28, 28), classes=4)) for variant in variants)

    # The baseline network has 27,054 of them, here with four classes.
    assert largest(bench.tuned_briefly()) > 27_054 >= largest(bench.tune_briefly({"tune.max_parameters": "stn"}))
    assert largest(bench.tune_briefly({"tune.max_parameters": 30_000})) <= 30_000


@check("tune.gpus_per_trial")
def _(bench: Bench) -> None:
    def with_share(share: float) -> dict[str, float]:
        return {"num_cpus": 1, "num_gpus": share, "memory": trials.PROCESS_BYTES}

    assert bench.tuned_briefly().workers == [with_share(0.0)] * 8
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "resources", {"CPU": 8.0, "GPU": 1.0})
        assert bench.tune_briefly({}).workers == [with_share(0.25)] * 4
        assert bench.tune_briefly({"tune.gpus_per_trial": 0.5}).workers == [with_share(0.5)] * 2


@check("tune.trials_at_once")
def _(bench: Bench) -> None:
    """Without GPUs it is not used. With them, a worker has the shares of its trials, and each has its own result."""
    with pytest.MonkeyPatch.context() as patch:
        # The sampler tpe draws by the results that it knows, and these come in another order.
        patch.setattr(bench, "base", {"tune.epochs": 1, "train.epochs": 1, "tune.sampler": "random"})
        assert len(bench.tune({"tune.trials_at_once": 2}).workers) == 8
        patch.setattr(bench, "resources", {"CPU": 8.0, "GPU": 1.0})
        alone, two = bench.tune({}), bench.tune({"tune.trials_at_once": 2})
    assert [worker["num_gpus"] for worker in alone.workers] == [0.25] * 4
    assert [worker["num_gpus"] for worker in two.workers] == [0.5] * 2
    assert [trial.value for trial in two.trials] == [trial.value for trial in alone.trials]


@check("tune.finalists")
def _(bench: Bench) -> None:
    assert len(bench.tuned_briefly().results.finalists) == 2  # and the baseline network
    assert len(bench.tune_briefly({"tune.finalists": 3}).results.finalists) == 4


@check("tune.final_seeds")
def _(bench: Bench) -> None:
    def seeds(tuned: Tuned) -> list[str]:
        return [name.split()[-1] for name in tuned.finals]

    assert seeds(bench.tuned_briefly()) == ["1000"] * 2
    assert sorted(seeds(bench.tune_briefly({"tune.final_seeds": [7, 8]}))) == ["7", "7", "8", "8"]


def narrows(leaf: str, value: Any, name: str, wanted: Any) -> None:
    """Check that every value drawn for ``name`` is ``wanted`` with ``value``, and not without it."""

    @check(f"tune.search_space.{leaf}")
    def _(bench: Bench) -> None:
        def drawn(tuned: Tuned) -> set:
            return {trial.params[name] for trial in tuned.drawn if name in trial.params}

        assert drawn(bench.tuned_briefly()) != {wanted}
        assert drawn(bench.tune_briefly({f"tune.search_space.{leaf}": value})) == {wanted}


narrows("transform", ["attention"], "transform", "attention")
narrows("padding_mode", ["reflection"], "padding_mode", "reflection")
narrows("downsample", [2], "downsample", 2)
narrows("layers", [1], "layers", 1)
narrows("channels.low", 16, "channels_1", 16)
narrows("channels.high", 4, "channels_1", 4)
narrows("kernel_size", [3], "kernel_size_1", 3)
narrows("hidden.low", 64, "hidden", 64)
narrows("hidden.high", 8, "hidden", 8)
narrows("activation", ["gelu"], "activation", "gelu")
narrows("localization_lr.low", 1.0, "localization_lr", 1.0)
narrows("localization_lr.high", 0.01, "localization_lr", 0.01)
narrows("localization_weight_decay", [0.3], "localization_weight_decay", 0.3)
narrows("theta_penalty", [0.7], "theta_penalty", 0.7)
narrows("at", ["conv2"], "at", "conv2")


@check("tune.search_space.backbone")
def _(bench: Bench) -> None:
    assert not any("backbone" in trial.params for trial in bench.tuned_briefly().drawn)
    tuned = bench.tune_briefly({"tune.search_space.backbone": ["test_resnet"]})
    assert {trial.params["backbone"] for trial in tuned.drawn} == {"test_resnet"}


@check("tune.search_space.alignment_weight")
def _(bench: Bench) -> None:
    assert not any("alignment_weight" in trial.params for trial in bench.tuned_briefly().drawn)
    tuned = bench.tune_briefly({"tune.search_space.alignment_weight": [0.7]})
    assert {trial.params["alignment_weight"] for trial in tuned.drawn} == {0.7}


def straightens(name: str) -> None:
    """Check that ``name`` is drawn uniformly if it is not logarithmic, so that large values are more frequent."""

    @check(f"tune.search_space.{name}.log")
    def _(bench: Bench) -> None:
        def drawn(tuned: Tuned) -> list[float]:
            return [v for t in tuned.drawn for key, v in t.params.items() if key in (name, f"{name}_1", f"{name}_2")]

        changed = bench.tune_briefly({f"tune.search_space.{name}.log": False})
        assert np.mean(drawn(changed)) > np.mean(drawn(bench.tuned_briefly()))


straightens("channels")
straightens("hidden")
straightens("localization_lr")


@check("train.seeds")
def _(bench: Bench) -> None:
    assert bench.trained().files == {"0.safetensors", "0.theta_history.safetensors", "training.json"}
    both = bench.train({"train.seeds": [7, 0]})
    assert both.files == bench.trained().files | {"7.safetensors", "7.theta_history.safetensors"}
    assert same(both.weights, bench.trained().weights), "a seed's model depends on the seed trained before it"
    assert not same(load_file("models/stn/7.safetensors"), both.weights)


@check("train.epochs")
def _(bench: Bench) -> None:
    assert [entry["epoch"] for entry in bench.trained().history] == [1, 2]
    assert [entry["epoch"] for entry in bench.train({"train.epochs": 3}).history] == [1, 2, 3]


@check("train.batch_size")
def _(bench: Bench) -> None:
    assert bench.trained().epochs == [(54, [16] * 3)] * 2
    assert bench.train({"train.batch_size": 9}).epochs == [(54, [9] * 6)] * 2


@check("train.lr")
def _(bench: Bench) -> None:
    before = [entry["lr"] for entry in bench.trained().history]
    assert before[0] > 0
    changed = bench.train({"train.lr": 0.04})
    assert [entry["lr"] for entry in changed.history] == pytest.approx([2 * lr for lr in before])
    assert not same(changed.weights, bench.trained().weights)


@check("train.warmup")
def _(bench: Bench) -> None:
    # The peak is at the end of the rise: half of six steps is the end of the first of two epochs.
    assert bench.trained().history[0]["lr"] < 0.019
    assert bench.train({"train.warmup": 0.5}).history[0]["lr"] == pytest.approx(0.02)


@check("train.schedule")
def _(bench: Bench) -> None:
    bench.base = {"train.lr": 0.02, "train.epochs": 3}
    rates = [metrics["lr"] for metrics in bench.train({"train.schedule": "thirds"}).history]
    bench.base = {}
    assert rates == pytest.approx([0.002, 0.0002, 0.0002]), "the rate of the next step"


@check("train.weight_decay")
def _(bench: Bench) -> None:
    def norm(trained: Trained) -> float:
        return sum(float(tensor.square().sum()) for tensor in trained.weights.values())

    assert norm(bench.train({"train.weight_decay": 1.0})) < 0.95 * norm(bench.trained())


changes_weights("train.optimizer", "adamw")
changes_weights("train.momentum", 0)
changes_weights("train.max_grad_norm", 0.01)
changes_weights("train.dropout", 0.5)
changes_weights("train.flip", True)
changes_weights("train.vertical_flip", True)
changes_weights("train.shift", 2)
changes_weights("train.decay_norms", False)
changes_weights("train.layer_decay", 0.5)
changes_weights("train.label_smoothing", 0.2)
changes_weights("train.class_weights", "balanced")
changes_weights("train.sampler", "balanced")
changes_weights("train.crop", [0.5, 1.0])
changes_weights("train.color_jitter", 0.3)
changes_weights("train.mixup", 0.5)
changes_weights("train.distortion_ramp", 1)
changes_weights("train.ema", 0.5)
changes_weights("train.alignment.weight", 0.5)


@check("train.alignment.to")
def _(bench: Bench) -> None:
    """Without a weight, there is nothing to choose between."""
    bench.base = {"train.alignment.weight": 1.0}
    itself, upright = bench.train({}), bench.train({"train.alignment.to": "upright"})
    bench.base = {}
    assert not same(itself.weights, upright.weights)
    assert upright.history[0]["alignment_loss"] != itself.history[0]["alignment_loss"]


@check("train.alignment.warmup")
def _(bench: Bench) -> None:
    bench.base = {"train.alignment.weight": 1.0}
    at_once, later = bench.train({}), bench.train({"train.alignment.warmup": 1.0})
    bench.base = {}
    assert not same(at_once.weights, later.weights)


@check("train.preset")
def _(bench: Bench) -> None:
    """A preset gives the values of settings that are null, and of no others."""
    changed = bench.train({"train.preset": "from_scratch"})
    assert [entry["lr"] for entry in changed.history] != [entry["lr"] for entry in bench.trained().history]
    assert changed.epochs == bench.trained().epochs
    assert not same(changed.weights, bench.trained().weights)


@check("train.final_fit")
def _(bench: Bench) -> None:
    assert bench.train({"train.final_fit": True}).epochs == [(54 + 18, [16] * 4)] * 2


@check("train.precision")
def _(bench: Bench) -> None:
    changed = bench.train({"train.precision": "bf16"})
    assert (bench.trained().started.precision.dtype, changed.started.precision.dtype) == ("float32", "bfloat16")
    assert not same(changed.weights, bench.trained().weights)


@check("train.capture")
def _(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"train\.capture: on given; only a GPU can repeat a step"):
        bench.train({"train.capture": "on"})


@check("train.workers")
def _(bench: Bench) -> None:
    before, after = bench.trained(), bench.train({"train.workers": 2})
    # `threads: auto` shares the machine's eight cores.
    assert before.asked is None and before.threads == [8]
    assert after.asked.scaling_config.num_workers == 2
    assert after.asked.scaling_config.resources_per_worker == {"CPU": 4}
    elastic = bench.train({"train.workers": {"min": 1, "max": 2}}).asked.scaling_config
    assert elastic.num_workers == (1, 2)


@check("train.threads")
def _(bench: Bench) -> None:
    changed = bench.train({"train.threads": 3})
    assert (bench.trained().threads, changed.threads) == ([8], [3])


@check("train.max_failures")
def _(bench: Bench) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "base", {"train.workers": 2})  # Ray replaces lost workers; one worker needs no Ray
        before, after = bench.train({}), bench.train({"train.max_failures": 5})
    assert [run.asked.run_config.failure_config.max_failures for run in (before, after)] == [3, 5]


@check("train.seeds_at_once")
def _(bench: Bench) -> None:
    """On a CPU the seeds take turns by epochs."""
    orders, runs = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "base", {"train.seeds": [0, 1], "train.epochs": 2})
        for changes in ({}, {"train.seeds_at_once": 2}):
            runs.append(bench.train(changes))
            done = [message for message in bench.messages if isinstance(message, EpochDone)]
            orders.append([(message.seed, message.metrics["epoch"]) for message in sorted(done)])
    assert orders == [[(0, 1), (0, 2), (1, 1), (1, 2)], [(0, 1), (1, 1), (0, 2), (1, 2)]]
    assert same(runs[0].weights, runs[1].weights)


@check("train.residency")
def _(bench: Bench) -> None:
    seen = []

    def watched(batches, *arguments, residency, **options) -> None:
        seen.append(residency.on_device)
        init(batches, *arguments, residency=residency, **options)

    init = Batches.__init__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Batches, "__init__", watched)
        runs = [bench.train({"train.residency": residency}) for residency in ("auto", "device", "host")]
    assert seen == [True] * 4 + [False] * 2
    assert all(same(run.weights, runs[0].weights) for run in runs)


@check("clean.checkpoints")
def _(bench: Bench) -> None:
    kept = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seed_training, "CHECKPOINT_EVERY_S", 0.0)
        patch.setattr(train_module, "remove", lambda storage: kept.append(len(checkpoints(storage))))
        patch.setattr(bench, "base", {"train.epochs": 4})
        for changes in ({}, {"clean.checkpoints": 5}):
            bench.train(changes)
    assert kept == [2, 4]


def frees_one_more(leaf: str, value: int) -> None:
    """Check that one more training of a variant is deleted; of three, DVC has recorded two, and one is not finished."""

    @check(leaf)
    def _(bench: Bench) -> None:
        def freed(changes: dict[str, Any]) -> int:
            params = bench.settings(changes)
            for number in range(3):
                folder = Path(f"state/training/stn-{number}")
                folder.mkdir(parents=True)
                if number:
                    write_json(folder / "result/metrics.json", {})
                    write_json(Path(f".dvc/cache/runs/a/b/{number}"), hashlib.md5(b"{}\n").hexdigest())
                os.utime(folder, (number, number))
            return len([item for item in clean.find_items(params) if "state/training" in str(item.path)])

        assert (freed({}), freed({leaf: value})) == (0, 1)


frees_one_more("clean.experiments", 1)
frees_one_more("clean.superseded", 0)


@check("evaluate.metric")
def _(bench: Bench) -> None:
    """The metric of the differences, of the table, and of the objective of the study."""
    metric = {"evaluate.metric": "balanced_accuracy"}
    before, _, _ = bench.evaluated()
    after, _, table = bench.evaluate(metric)
    assert before["variants"]["stn"] == after["variants"]["stn"], "one seed, nothing to choose from"
    chosen = [after["variants"][name]["test_balanced_accuracy"] for name in ("plain", "stn")]
    assert after["pairs"]["stn vs plain"]["difference"] == pytest.approx(chosen[1] - chosen[0])
    assert "validation balanced accuracy" in table and "paired bootstrap p" in table
    first, second = bench.tuned_briefly(), bench.tune_briefly(metric)
    assert first.results.study != second.results.study and second.results.metric == "balanced_accuracy"
    assert first.trials[0].value != second.trials[0].value, "the baseline, trained alike"


@check("evaluate.batch_size")
def _(bench: Bench) -> None:
    before, sizes, _ = bench.evaluated()
    # All 24 images at once, to find images of one color. Both variants: once as they are, then moved by each amount.
    # The transformer of one: moved, and two views.
    passes = 2 * (1 + sum(len(motion.amounts) for motion in MOTIONS))
    passes += sum(len(motion.amounts) for motion in UNDONE_MOTIONS) + 2
    assert sizes == [24, *[10, 10, 4] * passes]
    after, sizes, _ = bench.evaluate({"evaluate.batch_size": 20})
    assert sizes == [24, *[20, 4] * passes]
    before, after = flatten(before), flatten(after)
    # A kernel may round differently for another batch size. Only the losses and θ show it.
    losses = {name for name in before if name.endswith("_loss") or ".alignment." in name or ".theta." in name}
    assert losses and {n: after[n] for n in losses} == pytest.approx({n: before[n] for n in losses})
    assert {n: v for n, v in after.items() if n not in losses} == {n: v for n, v in before.items() if n not in losses}


@check("evaluate.resamples")
def _(bench: Bench) -> None:
    bootstrap, drawn = comparison.stats.bootstrap, []

    def watched(*arguments, **options):
        result = bootstrap(*arguments, **options)
        drawn.append(len(result.bootstrap_distribution))
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison.stats, "bootstrap", watched)
        bench.evaluate({})
        bench.evaluate({"evaluate.resamples": 333})
    assert drawn == [200, 333]


@check("evaluate.confidence")
def _(bench: Bench) -> None:
    (before, _, _), (after, _, table) = bench.evaluated(), bench.evaluate({"evaluate.confidence": 0.5})
    (wide,), (narrow,) = before["pairs"].values(), after["pairs"].values()
    assert wide["low"] < narrow["low"] < narrow["high"] < wide["high"] and "50% interval" in table


@check("evaluate.robustness_images")
def _(bench: Bench) -> None:
    _, sizes, _ = bench.evaluate({"evaluate.robustness_images": 7})
    # All 24 images are rectified at once, to find images of one color.
    assert sizes[:7] == [24, *[10, 10, 4] * 2] and set(sizes[7:]) == {7}


@check("visualize.examples")
def _(bench: Bench) -> None:
    def images_shown(changes: dict[str, Any]) -> int:
        params = bench.after_evaluate(changes)
        figures, draw = [], theta.draw_sampling_grids

        def watched(*arguments):
            figures.append(draw(*arguments))
            return figures[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(theta, "draw_sampling_grids", watched)
            patch.setattr(Figure, "savefig", lambda _, path, **__: Path(path).write_bytes(b"a picture"))
            visualize(params.variants, params.visualize)
        figure, _ = figures  # the first images and the worst; plain has no transformer
        return sum(len(axes.images) for axes in figure.axes)

    # Each image is shown as it is and rectified.
    assert (images_shown({}), images_shown({"visualize.examples": 3})) == (4, 6)


@check("register.tags")
def _(bench: Bench) -> None:
    def tags(changes: dict[str, Any]) -> list[str | None]:
        params = bench.after_evaluate(changes)
        registered = []

        def watched(new: NewVersion):
            registered.append(new.tags)
            return SimpleNamespace(version=len(registered))

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(registration, "register_network", watched)
            registration.register(params.variants, params.register_.tags)
        return [tags.get("team") for tags in registered]

    assert tags({}) == [None, None]
    assert tags({"register.tags": {"team": "vision"}}) == ["vision", "vision"]


def changes_a_gate(leaf: str, passing: Any, refusing: Any, lost: int = 20) -> None:
    """Check that a gate passes a model at one value and refuses it at another; ``lost`` images are of one class."""

    @check(f"promote.{leaf}")
    def _(bench: Bench) -> None:
        truth = GroundTruth(np.arange(200) % 4, list("abcd"))

        def answers(correct: np.ndarray) -> np.ndarray:
            return np.where(correct, truth.labels, (truth.labels + 1) % 4)

        before = Candidate("1", "plain", 100, answers(np.arange(200) < 150), 0.5, 1.0)
        better = np.ones(200, dtype=bool)
        better[: 4 * lost : 4] = False
        theta = ThetaTags(True, undone=0.4, outside=0.3)
        challenger = Candidate("2", "stn", 200, answers(better), 0.4, 1.0, theta)

        def passed(value: Any) -> bool:
            params = bench.settings({f"promote.{leaf}": value})
            verdict = check_gates(params.promote, params.evaluate, challenger, before, truth)
            return all(gate.passed for gate in verdict.gates if gate.name == leaf)

        assert passed(passing) and not passed(refusing)


changes_a_gate("minimum_accuracy", 0.9, 0.91)
changes_a_gate("margin", 0.15, 0.0, lost=45)
changes_a_gate("level", 0.001, 0.0)
changes_a_gate("class_level", 0.001, 0.5)
changes_a_gate("rotation_margin", 0.11, 0.09)
changes_a_gate("minimum_alignment", 0.4, 0.41)
changes_a_gate("maximum_outside", 0.3, 0.29)
changes_a_gate("max_parameters", 200, 199)
changes_a_gate("variants", ["stn"], ["plain"])


@check("variants/plain.yaml:transformer")
def _(bench: Bench) -> None:
    def parts(trained: Trained) -> set[str]:
        return {name.split(".")[0] for name in trained.weights}

    seeds = shipped("variants/stn.yaml")["transformer"]
    assert parts(bench.train({}, "plain")) == {"classifier"}
    given = bench.train({"variants/plain.yaml:transformer": seeds}, "plain")
    assert parts(given) == {"classifier", "transformer"}


LOCALIZATION = "transformer.localization"
changes_weights("variants/stn.yaml:transformer.padding_mode", "border")
changes_weights("variants/stn.yaml:localization_lr", 1.0)
changes_shape(f"variants/stn.yaml:{LOCALIZATION}.channels", [4, 10], f"{LOCALIZATION}.features.0.weight", (4, 1, 7, 7))
changes_shape(
    f"variants/stn.yaml:{LOCALIZATION}.kernel_sizes", [5, 5], f"{LOCALIZATION}.features.0.weight", (8, 1, 5, 5)
)
changes_shape(f"variants/stn.yaml:{LOCALIZATION}.hidden", 7, f"{LOCALIZATION}.head.3.weight", (6, 7))


def test_every_setting_has_a_check():
    assert CHECKS.keys() == all_leaves()


def test_without_a_change_nothing_changes(bench):
    """Equal settings give bitwise equal networks. The checks of weights depend on it."""
    again = bench.train({})
    assert same(again.weights, bench.trained().weights)
    assert [entry["train_loss"] for entry in again.history] == [e["train_loss"] for e in bench.trained().history]


def test_a_shift_as_large_as_the_image_is_refused(bench):
    """Each setting is within its own range; together they are not, since the margin is a reflection of the image."""
    with pytest.raises(UserError, match=r"train\.shift"):
        bench.train({"train.shift": 28})


@pytest.mark.parametrize("leaf", CHECKS)
def test_a_setting_has_an_effect(leaf, bench):
    bench.changed.clear()
    CHECKS[leaf](bench)
    assert bench.changed == {leaf}, "the check has not changed its setting, or another one too"
