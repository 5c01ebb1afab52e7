"""doctor: what this machine offers the pipeline, and what is wrong. Exit code 1 if something is.

python -m pipelines.commands.doctor
"""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
from rich.console import Console

from pipelines.runtime import environment
from pipelines.runtime.environment import redact
from pipelines.runtime.errors import ExternalError, UserError, run
from pipelines.runtime.files import read_json
from pipelines.runtime.home import home, state_dir
from pipelines.settings.params import Params, load_params


def main() -> None:
    console = Console(highlight=False, soft_wrap=True)
    wrong: list[str] = []

    def say(what: str, value: str, problem: str = "") -> None:
        console.print(f"{'[red]✗[/red]' if problem else '[green]✓[/green]'} {what:<16} {value}")
        if problem:
            wrong.append(f"{what}: {problem}")

    memory = psutil.virtual_memory()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    say("machine", f"{platform.machine()}, {cores} cores, {memory.total / 2**30:.0f} GiB of memory")
    say("python", f"{platform.python_version()} in {sys.prefix}")
    free = shutil.disk_usage(home()).free / 2**30
    say("disk", f"{free:.0f} GiB free at {home()}", "" if free > 2 else "less than 2 GiB free")
    in_git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
    commit = in_git.stdout.strip()[:10]
    say("git", commit or "no commit", "" if commit else "DVC needs a git repository with a commit")
    _torch(say)
    try:
        params = load_params()
        say("params.yaml", f"variants {', '.join(params.variants)} on {params.data.dataset}")
        _data(say, params)
    except UserError as error:
        say("params.yaml", "not valid", str(error))
    _ray(say)
    _tracking(say)
    _services(say)
    for problem in wrong:
        console.print(f"[red]wrong:[/red] {problem}")
    if wrong:
        sys.exit(1)
    console.print("nothing is wrong")


def _torch(say) -> None:
    import torch

    from stn.training import choose_precision

    count = torch.cuda.device_count()
    names = ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    say("GPUs", f"{count}: {names}" if count else "none; training uses the CPU")
    precision, reason = choose_precision("auto", torch.device("cuda" if count else "cpu"))
    say("precision", f"{str(precision).removeprefix('torch.')}, since {reason}")
    say("torch", f"{torch.__version__}, {torch.get_num_threads()} threads")


def _data(say, params: Params) -> None:
    from pipelines.preparation.sources import is_empty, locate

    prepared = Path("data/prepared/meta.json")
    if prepared.exists():
        meta = read_json(prepared)
        say("prepared data", f"{meta['dataset']} from {meta['source']}, digest {meta['digest'][:12]}")
    else:
        say("prepared data", "none yet; made by dvc repro prepare")
    if params.data.dataset == "digits" and params.data.source == "data/raw":
        say("data source", "digits come with scikit-learn")
        return
    try:
        path = locate(params.data.source)
    except UserError as error:
        say("data source", params.data.source, str(error))
        return
    empty = f"{path} is empty; {params.data.dataset} will be downloaded into it"
    say("data source", empty if is_empty(path) else f"{path}")


def _ray(say) -> None:
    address = environment.value("RAY_ADDRESS")
    if not address:
        say("Ray", "RAY_ADDRESS is not set: each training starts a cluster on this machine's cores")
        return
    from pipelines.training.cluster import connected, ray

    try:
        with connected():
            resources = ray.cluster_resources()
            say(
                "Ray", f"{address}: {len(ray.nodes())} node(s), {resources.get('CPU', 0):.0f} CPUs, "
                f"{resources.get('GPU', 0):.0f} GPUs"
            )  # fmt: skip
    except ExternalError as error:
        say("Ray", address, str(error))


def _services(say) -> None:
    from pipelines.commands import service_checks as services

    checks = {
        "Optuna's storage": services.optuna_storage, "checkpoints": services.checkpoint_storage,
        "S3": services.s3, "DVC's remote": services.dvc_remote,
    }  # fmt: skip
    for what, check in checks.items():
        try:
            found = check()
        except (UserError, ExternalError) as error:
            say(what, "not usable", redact(str(error)))
        else:
            if found:
                say(what, found)


def _tracking(say) -> None:
    from pipelines.registry.versions import aliases_of, list_versions
    from pipelines.tracking.client import connect, mlflow
    from pipelines.tracking.outbox import folder_of

    try:
        client = connect()
    except ExternalError as error:
        say("tracking store", redact(environment.value("MLFLOW_TRACKING_URI") or ""), str(error))
        return
    uri = mlflow.get_tracking_uri()
    for store in sorted(state_dir("delivery").glob("*/store")):
        address = store.read_text().strip()
        if store.parent != folder_of(client) and any(store.parent.glob("*.jsonl")):
            mend = f"start that store, set MLFLOW_TRACKING_URI to it and run make doctor; or delete {store.parent}"
            say("undelivered", f"entries of runs for {address}", mend)
    models = {model.name for model in client.search_registered_models()}
    say("tracking store", f"{redact(uri)}, registered models: {', '.join(sorted(models)) or 'none yet'}")
    if Path("registered.json").exists():
        recorded = read_json(Path("registered.json"))
        present = {str(v.version) for v in list_versions(client, recorded["model"])}
        missing = sorted(set(recorded["versions"].values()) - present)
        champion = aliases_of(client, recorded["model"]).get("champion")
        mend = "dvc repro --force --single-item register"
        problem = f"this store lacks version(s) {', '.join(missing)} of registered.json; mend it with: {mend}"
        say("registry", f"{recorded['model']}: champion is version {champion}", problem if missing else "")


if __name__ == "__main__":
    run(main)
