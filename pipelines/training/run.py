"""One variant, all training seeds; resumed where a kill left it."""

import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from pipelines.outputs.prepared_data import load_meta
from pipelines.outputs.trained_models import MODELS, write_result
from pipelines.runtime.errors import ExternalError, UserError
from pipelines.runtime.files import read_json, write_json, writing
from pipelines.runtime.home import state_dir
from pipelines.runtime.keys import digest_code, key_of
from pipelines.runtime.locks import locked
from pipelines.runtime.progress import Timeline
from pipelines.settings.params import Params, TrainParams
from pipelines.settings.variants import VariantParams
from pipelines.tracking.client import TrainingRun, connect, experiment_id, store_errors_explained
from pipelines.tracking.lineage import current_commit, libraries
from pipelines.tracking.outbox import Outbox
from pipelines.training.checkpoints import check_reachable, load_state, remove, storage_of
from pipelines.training.checks import CODE, check_same_code, check_trainable
from pipelines.training.cluster import connected, plan
from pipelines.training.distributed import train_on_ray

METRICS = Path("metrics/train")
PLOTS = Path("plots/train")


def train(name: str, params: Params, variant: VariantParams) -> dict:
    """Train a variant with every seed and write models/, metrics/ and plots/ for it; returns its metrics.

    Raises:
        UserError: the settings do not fit the data or the cluster.
        ExternalError: training failed; what was finished stays, and the next start goes on from there.
    """
    meta = load_meta()
    check_trainable(name, params, variant, meta)
    key = training_key(params.train, variant, meta["digest"])
    with locked(f"train-{key}"):
        folder = state_dir("training", f"{name}-{key}")
        result = folder / "result"
        if result.exists() and os.environ.get("FORCE") == "1":
            shutil.rmtree(folder)
            folder.mkdir()
        if result.exists():
            print(f"{name}: this training is finished; its result is copied from {result} (FORCE=1 trains again)")
            with suppress(ExternalError):  # a store that was away at its end may be told of it now; evaluate needs one
                connect()
        else:
            _fit(name, params, variant, meta, folder)
        for source, target in ((result / "model", MODELS / name), *_files(result, name)):
            shutil.rmtree(target, ignore_errors=True) if source.is_dir() else target.unlink(missing_ok=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
    return read_json(METRICS / f"{name}.json")


def _files(result: Path, name: str) -> list[tuple[Path, Path]]:
    return [(result / "metrics.json", METRICS / f"{name}.json"), (result / "history.csv", PLOTS / f"{name}.csv")]


def training_key(train: TrainParams, variant: VariantParams, data_digest: str) -> str:
    """The key of a training: all that its result depends on, and nothing else.

    Left out are ``train.max_failures``, which may be raised to continue after too many failures, and the variant's
    origin.
    """
    recipe = train.model_dump(exclude={"max_failures"})
    return key_of(recipe, variant.model_dump(exclude={"origin"}), data_digest, digest_code(*CODE))


def _fit(name: str, params: Params, variant: VariantParams, meta: dict, folder: Path) -> None:
    """Train on Ray and leave the result in ``folder/result``; what MLflow could not be told by then is kept."""
    timeline = Timeline()
    timeline.mark("imports")
    client = connect()
    timeline.mark("MLflow")
    with Outbox(client, folder.name) as delivery:
        _fit_and_tell(name, params, variant, meta, folder, delivery, timeline)
    timeline.mark("record")
    print(f"{name}: {timeline}", flush=True)


def _fit_and_tell(
    name: str, params: Params, variant: VariantParams, meta: dict, folder: Path, delivery: Outbox,
    timeline: Timeline,
) -> None:  # fmt: skip
    commit = current_commit()
    storage = storage_of(folder.name)
    with connected():
        workers = plan(params.train)
        least = min(params.train.batch_size, meta["counts"]["validation"])
        if workers.number > least:
            raise UserError(
                f"train.workers: {params.train.workers} given, which is {workers.number}; a batch or the validation "
                f"images, {least}, cannot be shared among them"
            )
        check_same_code()
        check_reachable(storage)
        timeline.mark("Ray")
        record = {
            "variant": variant.model_dump(), "train": params.train.model_dump(), "data": meta,
            **commit.tags, "git_diff": commit.diff, "libraries": libraries(),
            "workers": workers.number, "threads": workers.threads, "gpu": workers.gpu,
        }  # fmt: skip
        with store_errors_explained("no training has begun"):
            runs = _open_runs(delivery, name, record, meta, folder)
        timeline.mark("MLflow")
        print(f"{name}: {len(runs)} seed(s) × {params.train.epochs} epochs on {workers}", flush=True)
        listener = train_on_ray(name, params, variant, meta, storage, workers, runs, folder / "error.log")
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
        write_result(state["finished"], {s: r.run_id for s, r in runs.items()}, record, folder / "result")
    remove(storage)


def _open_runs(delivery: Outbox, name: str, record: dict, meta: dict, folder: Path) -> dict[int, TrainingRun]:
    """The MLflow run of each seed, with what it is made from: those of an earlier start of this training, else new."""
    attempt = folder / "attempt.json"
    if not attempt.exists():
        write_json(attempt, uuid.uuid4().hex[:8])
    key = f"{folder.name}-{read_json(attempt)}"
    experiment = experiment_id(delivery.client, f"stn-{meta['dataset']}")
    runs = {}
    for seed in record["train"]["seeds"]:
        runs[seed] = TrainingRun(delivery, experiment, f"{key}-{seed}", f"{name}-{seed}")
        runs[seed].describe_training(name, seed, record, meta)
    write_json(folder / "runs.json", {str(seed): training_run.run_id for seed, training_run in runs.items()})
    return runs
