"""train: one variant, all training seeds, on Ray workers; resumed where a kill left it.

python -m pipelines.train --variant seed
"""

import argparse
import hashlib
import shutil
import threading
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pipelines.errors import UserError, WorldError, run, told
from pipelines.params import Params, load_params
from pipelines.variants import VariantParams, load_variant

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch and Ray take seconds to import

import numpy as np
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from pipelines import storage as storages
from pipelines import tracking
from pipelines.cluster import HostWatch, RayError, Workers, connected, here, plan, ran_out_of_memory, ray
from pipelines.lineage import current_commit, digest_code, libraries
from pipelines.prepared import check, load_arrays, load_meta
from pipelines.progress import Reporter, Timeline, progress
from pipelines.state import key_of, locked, read_json, state_dir, write_json, write_text, writing
from pipelines.worker import load_state, train_worker

MODELS = Path("models")
RESIZE_AT_MOST_EVERY_S = 30.0  # where a host joins, at the cost of the epoch that is then begun anew
METRICS = Path("metrics/train")
PLOTS = Path("plots/train")


@ray.remote(num_cpus=0)
class Mailbox:
    """Holds what workers say until the driver asks; a worker never waits for the driver's database."""

    def __init__(self) -> None:
        self.messages: list[dict] = []

    def put(self, message: dict) -> None:
        self.messages.append(message)

    def drain(self) -> list[dict]:
        messages, self.messages = self.messages, []
        return messages


def train(name: str, params: Params, variant: VariantParams) -> dict:
    """Train a variant with every seed and write models/, metrics/ and plots/ for it; returns its metrics.

    Raises:
        UserError: the settings do not fit the data or the cluster.
        WorldError: training failed; what was finished stays, and the next start goes on from there.
    """
    meta = load_meta()
    check(name, params, variant, meta)
    # How often a lost worker is replaced changes nothing of the result, and may be raised to go on after too many.
    recipe = params.train.model_dump(exclude={"max_failures"})
    code = digest_code("stn", "pipelines.fit", "pipelines.worker")
    key = key_of(recipe, variant.model_dump(exclude={"origin"}), meta["digest"], code)
    with locked(f"train-{key}"):
        folder = state_dir("training", f"{name}-{key}")
        result = folder / "result"
        if result.exists() and _is_recorded(name, result):
            shutil.rmtree(folder)  # DVC has this result and wants a new one all the same: dvc repro --force
            folder.mkdir()
        if result.exists():
            print(f"{name}: trained before, but not recorded by DVC; the result in {result} is taken over")
            with suppress(WorldError):  # a store that was away at its end may be told of it now; evaluate needs one
                tracking.connect()
        else:
            _fit(name, params, variant, meta, folder)
        for source, target in ((result / "model", MODELS / name), *_files(result, name)):
            shutil.rmtree(target, ignore_errors=True) if source.is_dir() else target.unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    return read_json(METRICS / f"{name}.json")


def _files(result: Path, name: str) -> list[tuple[Path, Path]]:
    return [(result / "metrics.json", METRICS / f"{name}.json"), (result / "history.csv", PLOTS / f"{name}.csv")]


def _is_recorded(name: str, result: Path) -> bool:
    """Whether dvc.lock holds this very result: DVC was there to record it when the stage ended."""
    lock = Path("dvc.lock")
    stages = YAML(typ="safe").load(lock.read_text())["stages"] if lock.exists() else {}
    outs = {out["path"]: out.get("md5") for out in stages.get(f"train@{name}", {}).get("outs", [])}
    md5 = hashlib.md5((result / "metrics.json").read_bytes(), usedforsecurity=False).hexdigest()
    return outs.get(str(METRICS / f"{name}.json")) == md5


def _fit(name: str, params: Params, variant: VariantParams, meta: dict, folder: Path) -> None:
    """Train on Ray and leave the result in ``folder/result``; what MLflow could not be told by then is kept."""
    timeline = Timeline()
    timeline.mark("imports")
    client = tracking.connect()
    timeline.mark("MLflow")
    with tracking.Delivery(client, folder.name) as delivery:
        _fit_and_tell(name, params, variant, meta, folder, delivery, timeline)
    timeline.mark("record")
    print(f"{name}: {timeline}", flush=True)


def _fit_and_tell(
    name: str, params: Params, variant: VariantParams, meta: dict, folder: Path, delivery: tracking.Delivery,
    timeline: Timeline,
) -> None:  # fmt: skip
    commit = current_commit()
    storage = storages.storage_of(folder.name)
    with connected():
        workers = plan(params.train)
        least = min(params.train.batch_size, meta["counts"]["validation"])
        if workers.number > least:
            raise UserError(
                f"train.workers: {params.train.workers} given, which is {workers.number}; a batch or the validation "
                f"images, {least}, cannot be shared among them"
            )
        storages.check(storage)
        timeline.mark("Ray")
        record = {
            "variant": variant.model_dump(), "train": params.train.model_dump(), "data": meta,
            **commit.tags, "git_diff": commit.diff, "libraries": libraries(),
            "workers": workers.number, "threads": workers.threads, "gpu": workers.gpu,
        }  # fmt: skip
        with tracking.needed("no training has begun"):
            runs = _open_runs(delivery, name, record, meta, folder)
        timeline.mark("MLflow")
        print(f"{name}: {len(runs)} seed(s) × {params.train.epochs} epochs on {workers}", flush=True)
        listener = _run_ray(name, params, variant, meta, storage, workers, runs, folder / "error.log")
        timeline.mark("workers", listener.started)
        timeline.mark("epochs", listener.last_epoch)
    timeline.mark("end of Ray")
    state, _ = load_state(storage)
    assert state is not None and set(state["finished"]) == set(runs)
    seen = listener.worked_on | {"workers": listener.workers or workers.number}
    for seed, training_run in runs.items():
        for entry in state["finished"][seed]["history"]:
            training_run.log_epoch(entry)
        training_run.describe(tags={name: str(value) for name, value in seen.items()})
        training_run.end("FINISHED")
    record |= seen
    with writing(folder / "result"):
        _write_result(state["finished"], {s: r.run_id for s, r in runs.items()}, record, folder / "result")
    storages.remove(storage)


def _open_runs(
    delivery: tracking.Delivery, name: str, record: dict, meta: dict, folder: Path
) -> dict[int, tracking.TrainingRun]:
    """The MLflow run of each seed, with what it is made from: those of an earlier start of this training, else new."""
    attempt = folder / "attempt.json"
    if not attempt.exists():
        write_json(attempt, uuid.uuid4().hex[:8])
    key = f"{folder.name}-{read_json(attempt)}"
    experiment = tracking.experiment_id(delivery.client, f"stn-{meta['dataset']}")
    runs = {}
    for seed in record["train"]["seeds"]:
        runs[seed] = tracking.TrainingRun(delivery, experiment, f"{key}-{seed}", f"{name}-{seed}")
        runs[seed].describe_training(name, seed, record, meta)
    write_json(folder / "runs.json", {str(seed): training_run.run_id for seed, training_run in runs.items()})
    return runs


def worker_config(params: Params, variant: VariantParams, meta: dict, storage: str, threads: int, mailbox) -> dict:
    """What :func:`pipelines.worker.train_worker` is given; the images are put into Ray's object store once."""
    return {
        "train": params.train.model_dump(),
        "seeds": params.train.seeds,
        "variant": variant.model_dump(),
        "meta": meta,
        "data": ray.put(load_arrays(params.train.final_fit)),
        "storage": storage,
        "threads": threads,
        "mailbox": mailbox,
    }


def _run_ray(name, params: Params, variant, meta, storage: str, workers: Workers, runs: dict, log: Path) -> "Listener":
    """Run the workers to their end, their messages taken to the terminal and to MLflow."""
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError

    mailbox = Mailbox.options(scheduling_strategy=here()).remote()  # not to be lost with another host
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=worker_config(params, variant, meta, storage, workers.threads, mailbox),
        scaling_config=ScalingConfig(
            num_workers=workers.number if workers.least == workers.most else (workers.least, workers.most),
            elastic_resize_monitor_interval_s=RESIZE_AT_MOST_EVERY_S, placement_strategy="SPREAD", use_gpu=workers.gpu,
            resources_per_worker={"CPU": workers.threads} | ({"GPU": 1} if workers.gpu else {}),
        ),
        run_config=RunConfig(
            # A new name for each start: the worker itself looks for the furthest checkpoint among all of them.
            name=uuid.uuid4().hex[:8], storage_path=storage,
            failure_config=FailureConfig(max_failures=params.train.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=params.clean.checkpoints),
        ),
    )  # fmt: skip
    done = threading.Event()
    with progress(name, len(runs) * params.train.epochs) as reporter:
        listener = Listener(mailbox, runs, reporter, params.train.epochs, done, HostWatch(workers))
        listener.start()
        status = "KILLED"
        try:
            trainer.fit()
            status = "FINISHED"
        except (TrainingFailedError, RayError) as error:
            status = "FAILED"
            raise WorldError(f"{name}: {_why_it_failed(error, params.train.max_failures, storage, log)}") from None
        finally:
            done.set()
            listener.join()
            listener.stop_watching("FAILED" if listener.not_finite else status)
    if listener.not_finite:
        raise WorldError(
            f"{name}: {listener.not_finite}; the last good checkpoint is kept in {storage}. "
            f"A lower train.lr or localization_lr in variants/{name}.yaml may help"
        )
    return listener


def _why_it_failed(error: Exception, max_failures: int, storage: str, log: Path) -> str:
    """What Ray says of a training that failed, in a line; all of it is left in ``log``."""
    text = str(error)
    with suppress(OSError):  # a full disk may be why it failed
        write_text(log, text)
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, RayError):  # a process of Ray's own, which it does not replace
        what = f"Ray lost what runs the training: {lines[0]}"
    else:
        what = f"training failed more than train.max_failures={max_failures} times: {lines[-1][:300]}"
    if ran_out_of_memory(text):
        what += "; a lower train.batch_size needs less memory, and so do fewer train.workers on one machine"
    return f"{what} (all of it: {log}); the last checkpoint in {storage} is kept and the next start goes on from it"


class Listener(threading.Thread):
    """Takes the workers' messages to the terminal and to MLflow while the main thread waits for Ray."""

    def __init__(
        self, mailbox, runs: dict[int, tracking.TrainingRun], reporter: Reporter, epochs: int, done, watch: HostWatch
    ):
        super().__init__(daemon=True)
        self.watch, self.workers = watch, 0
        self.mailbox, self.runs, self.reporter, self.epochs, self.done = mailbox, runs, reporter, epochs, done
        self.order = {seed: place for place, seed in enumerate(runs)}
        self.running: tracking.TrainingRun | None = None
        self.worked_on: dict[str, str] = {}  # device and precision, once the workers have said
        self.not_finite = ""
        self.accuracy = ""
        self.recording = True
        self.started: float | None = None
        self.last_epoch: float | None = None

    def run(self) -> None:
        finished = False
        while not finished:
            finished = self.done.wait(0.3)  # and then once more, for what came last
            try:
                messages = ray.get(self.mailbox.drain.remote())
                for line in self.watch.news():
                    print(line, flush=True)
            except RayError as error:
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                print(
                    f"messages from the workers are lost: {reason}; their epochs will be logged at the end", flush=True
                )
                return
            for message in messages:
                self.take(message)

    def take(self, message: dict) -> None:
        """Act on one message of a worker."""
        kind, seed = message["kind"], message.get("seed", 0)
        if kind == "start":
            self.started = self.started or message["time"]
            self.worked_on = {key: message[key] for key in ("device", "precision")}
            if self.workers not in (0, message["workers"]):
                print(f"{message['workers']} worker(s) where there were {self.workers}", flush=True)
            self.workers = message["workers"]
            for note in message["notes"]:
                print(note, flush=True)
            print(f"{message['device']}, {message['precision']}: {message['reason']}", flush=True)
            if message["resumed"]:
                print(f"resumed after {message['resumed']} of {self.reporter.total} epochs", flush=True)
        elif kind == "seed":
            self._record(lambda: self._watch(seed))
        elif kind == "step":
            note = f"seed {seed} · {message['rate']:,.0f} images/s{self.accuracy}"
            self.reporter.update(self.order[seed] * self.epochs + message["done"], note)
        elif kind == "epoch":
            entry = message["entry"]
            self.last_epoch = message["time"]
            self.accuracy = f" · validation {entry['validation_accuracy']:.2%}"
            note = f"seed {seed} · {entry['images_per_second']:,.0f} images/s{self.accuracy}"
            self.reporter.update(self.order[seed] * self.epochs + entry["epoch"], note)
            self._record(lambda: self.runs[seed].log_epoch(entry))
        elif kind == "not finite":
            self.not_finite = f"seed {seed}: {message['error']}"

    def _watch(self, seed: int) -> None:
        if self.running is not self.runs[seed]:
            if self.running is not None:
                self.running.end("FINISHED")
            self.running = self.runs[seed]
            self.running.start()

    def _record(self, tell: Callable[[], None]) -> None:
        """Have MLflow told; where a disk is full, all that follows waits for the end, when the checkpoint tells it."""
        try:
            if self.recording:
                tell()
        except OSError as error:  # must not hide why training ends
            print(f"{told(error)}; the epochs from here will be logged at the end", flush=True)
            self.recording = False

    def stop_watching(self, status: str) -> None:
        """End the MLflow run of the seed at work, if any."""
        if self.running is not None:
            running, self.running = self.running, None
            self._record(lambda: running.end(status))


def _write_result(finished: dict, run_ids: dict[int, str], record: dict, result: Path) -> None:
    """Models, metrics and the mean history over the seeds, written beside the place and then moved there whole."""
    beside = result.with_name(".result")
    shutil.rmtree(beside, ignore_errors=True)
    (beside / "model").mkdir(parents=True)
    for seed, done in finished.items():
        save_file(done["weights"], beside / "model" / f"{seed}.safetensors")
        if done["course"]:
            course = {"images": done["watched"], "theta": torch.stack(done["course"])}
            save_file(course, beside / "model" / f"{seed}.course.safetensors")
    histories = [done["history"] for done in finished.values()]
    names = [name for name in histories[0][0] if name != "timestamp"]
    rows = [
        {name: float(np.mean([entry[name] for entry in entries])) for name in names}
        for entries in zip(*histories, strict=True)
    ]
    recorded = {str(seed): {"run_id": run_ids[seed], "history": done["history"]} for seed, done in finished.items()}
    write_json(beside / "model" / "training.json", {**record, "runs": recorded})
    lines = [",".join(rows[0]), *(",".join(str(value) for value in row.values()) for row in rows)]
    (beside / "history.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    metrics = {name: rows[-1][name] for name in ("train_loss", "validation_loss", "validation_accuracy")}
    speed = float(np.mean([row["images_per_second"] for row in rows]))
    metrics |= {"images_per_second": speed, "workers": record["workers"], "threads": record["threads"]}
    write_json(beside / "metrics.json", metrics)
    beside.rename(result)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.train", description="Train one variant with all seeds.")
    parser.add_argument("--variant", required=True, help="name of a file in variants/, without .yaml")
    name = parser.parse_args().variant
    metrics = train(name, load_params(), load_variant(name))
    print(
        f"{name}: validation accuracy {metrics['validation_accuracy']:.2%}, "
        f"{metrics['images_per_second']:,.0f} images/s"
    )


if __name__ == "__main__":
    run(main)
