"""doctor: check this machine, the settings and the services, and print what is wrong. Exit code 1 if something is.

python -m pipelines.commands.doctor
"""

import argparse
import getpass
import platform
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil
from rich.console import Console
from rich.markup import escape

from pipelines.runtime import environment
from pipelines.runtime.cores import usable_cores
from pipelines.runtime.environment import redact
from pipelines.runtime.errors import ExternalError, UserError, run_main
from pipelines.runtime.home import home, state_dir
from pipelines.runtime.ray_places import session_folder
from pipelines.settings.data_source import is_missing_in_work_trees
from pipelines.settings.params import Params, TrainParams, load_params
from pipelines.settings.train_presets import PRESETS


class Finding(NamedTuple):
    """Result of one check: its subject and what was found. ``problem`` is empty if nothing is wrong."""

    subject: str
    value: str
    problem: str = ""


def check_machine() -> Iterator[Finding]:
    """Check hardware, Python and disk space."""
    memory = psutil.virtual_memory()
    cores = usable_cores()
    yield Finding("machine", f"{platform.machine()}, {cores.number} cores, {memory.total / 2**30:.0f} GiB of memory")
    yield Finding("python", f"{platform.python_version()} in {sys.prefix}", _describe_move(Path(sys.prefix)))
    yield Finding("user", getpass.getuser(), environment.describe_nameless_user())
    free = shutil.disk_usage(home()).free / 2**30
    yield Finding("disk", f"{free:.0f} GiB free at {home()}", "" if free > 2 else "less than 2 GiB free")


def _describe_move(environment: Path) -> str:
    """What to do if a virtual environment was moved or copied: its programs start the Python of the first place."""
    program = environment / "bin/dvc"
    if not program.exists() or f"{environment}/bin/python" in program.read_text(encoding="utf-8", errors="replace"):
        return ""
    return (
        f"{program} starts the Python of another folder; this environment was moved; delete {environment}, make setup"
    )


def check_git() -> Iterator[Finding]:
    """Check that the current folder is in a git repository with a commit."""
    from pipelines.tracking.lineage import current_commit

    commit = current_commit()
    problem = "" if commit.sha else commit.problem or "DVC needs a git repository with a commit"
    yield Finding("git", commit.sha[:10] or ("unknown" if commit.problem else "no commit"), problem)


def check_torch() -> Iterator[Finding]:
    """Report GPUs, precision and threads."""
    import torch

    from stn.precision import WORTH_IT, describe_bf16

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    yield Finding("GPUs", describe_gpus())
    supported, hardware = describe_bf16(torch.device("cuda" if count else "cpu"))
    chosen = f"bf16 where a training measures it {WORTH_IT} times as fast, else fp32" if supported else "fp32"
    yield Finding("precision", f"train.precision: auto is {chosen}; {hardware}")
    yield Finding("torch", f"{torch.__version__}")
    yield Finding("threads", f"train.threads: auto is {usable_cores()}, shared among the workers on this machine")


def describe_gpus() -> str:
    """The GPUs that training uses, or why it uses the CPU: no GPU, no driver, or a driver too old for torch."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count:
        return f"{count}: " + ", ".join(torch.cuda.get_device_name(i) for i in range(count))
    try:
        torch.cuda.init()
    except (AssertionError, RuntimeError) as error:
        reason = next(iter(str(error).strip().split(". ")[0].splitlines()), type(error).__name__).rstrip(".")
        return f"none ({reason}); training uses the CPU"
    return "none; training uses the CPU"


def check_settings() -> Iterator[Finding]:
    """Check params.yaml and the data that it names."""
    try:
        params = load_params()
    except UserError as error:
        yield Finding("params.yaml", "not valid", str(error))
        return
    yield Finding("params.yaml", f"variants {', '.join(params.variants)} on {params.data.dataset}")
    yield Finding("train", describe_train(params.train))
    yield from check_data(params)


def describe_train(train: TrainParams) -> str:
    """The preset, where it suits, and all settings of the section ``train`` with the values that nulls got."""
    preset = "no preset" if train.preset == "none" else f"preset {train.preset}. {PRESETS[train.preset].suits}"
    values = [f"{name}: {value}" for name, value in train.model_dump(exclude={"preset"}).items()]
    return "\n".join((preset, *textwrap.wrap(", ".join(values), 100)))


def check_data(params: Params) -> Iterator[Finding]:
    """Report the prepared data, and check that the source of the data exists."""
    from pipelines.outputs.prepared_data import PREPARED, load_meta
    from pipelines.preparation.sources import is_empty, locate

    if (PREPARED / "meta.json").exists():
        meta = load_meta()
        yield Finding("prepared data", f"{meta.dataset} from {meta.source}, digest {meta.digest[:12]}")
    else:
        yield Finding("prepared data", "none yet; made by dvc repro prepare")
    if params.data.dataset == "digits" and params.data.source == "data/raw":
        yield Finding("data source", "digits come with scikit-learn")
        return
    try:
        path = locate(params.data.source)
    except UserError as error:
        yield Finding("data source", params.data.source, str(error))
        return
    if is_missing_in_work_trees(params.data.source):
        where = f"{path}; dvc exp run --temp and --queue need its absolute path, since neither git nor DVC keeps it"
        yield Finding("data source", where)
        return
    empty = f"{path} is empty; {params.data.dataset} will be downloaded into it"
    yield Finding("data source", empty if is_empty(path) else f"{path}")


def check_ray() -> Iterator[Finding]:
    """Check that the Ray cluster at RAY_ADDRESS answers."""
    address = environment.get("RAY_ADDRESS")
    if not address:
        value = "RAY_ADDRESS is not set: one worker needs no cluster; tune starts its own"
        try:
            folder = session_folder()
        except ExternalError as error:
            yield Finding("Ray", value, str(error))
        else:
            yield Finding("Ray", value + (f" in {folder}" if folder else ""))
        return
    from pipelines.training.cluster import connected, ray

    try:
        with connected():
            resources = ray.cluster_resources()
            yield Finding(
                "Ray",
                f"{address}: {len(ray.nodes())} node(s), {resources.get('CPU', 0):.0f} CPUs, "
                f"{resources.get('GPU', 0):.0f} GPUs",
            )
    except (UserError, ExternalError) as error:
        yield Finding("Ray", address, str(error))


def check_tracking() -> Iterator[Finding]:
    """Check the tracking store, undelivered updates, and that the registry has the versions of registered.json."""
    from pipelines.registry.registered_versions import REGISTERED, read_registered
    from pipelines.registry.versions import aliases_of, list_versions
    from pipelines.tracking.client import connect
    from pipelines.tracking.outbox import pending_folder

    try:
        client = connect()
    except (UserError, ExternalError) as error:
        yield Finding("tracking store", redact(environment.get("MLFLOW_TRACKING_URI") or ""), str(error))
        return
    for store in sorted(state_dir("delivery").glob("*/store")):
        address = store.read_text().strip()
        if store.parent != pending_folder(client) and any(store.parent.glob("*.jsonl")):
            remedy = f"start that store, set MLFLOW_TRACKING_URI to it and run make doctor; or delete {store.parent}"
            yield Finding("undelivered", f"entries of runs for {address}", remedy)
    models = ", ".join(sorted({model.name for model in client.search_registered_models()}))
    yield Finding("tracking store", f"{redact(client.tracking_uri)}, registered models: {models or 'none yet'}")
    if REGISTERED.exists():
        registered = read_registered()
        present = {str(version.version) for version in list_versions(client, registered.model)}
        missing = sorted(set(registered.versions.values()) - present)
        champion = aliases_of(client, registered.model).get("champion")
        problem = (
            f"this store lacks version(s) {', '.join(missing)} of registered.json; to repair it, run: "
            f"dvc repro --force --single-item register"
        )
        state = f"champion is version {champion}" if champion else "there is no champion"
        yield Finding("registry", f"{registered.model}: {state}", problem if missing else "")


def check_services() -> Iterator[Finding]:
    """Check the services that environment variables name."""
    from pipelines.commands import service_checks

    checks = {
        "Optuna's storage": service_checks.check_optuna_storage,
        "checkpoints": service_checks.check_checkpoint_storage,
        "S3": service_checks.check_s3,
        "DVC's remote": service_checks.check_dvc_remote,
    }
    for subject, check in checks.items():
        try:
            found = check()
        except (UserError, ExternalError) as error:
            yield Finding(subject, "not usable", redact(str(error)))
        else:
            if found:
                yield Finding(subject, found)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.doctor", description="Check this machine, the settings and the services."
    )
    parser.add_argument("--device", action="store_true", help="check only what training runs on")
    checks = (check_machine, check_git, check_torch, check_settings, check_ray, check_tracking, check_services)
    if parser.parse_args().device:
        checks = (check_torch,)
    console = Console(highlight=False, soft_wrap=True)
    problems = []
    for check in checks:
        for finding in check():
            mark = "[red]✗[/red]" if finding.problem else "[green]✓[/green]"
            first, *rest = finding.value.split("\n")
            console.print(f"{mark} {finding.subject:<16} {escape(first)}")
            for line in rest:
                console.print(f"{'':18} {line}", markup=False)
            if finding.problem:
                problems.append(f"{finding.subject}: {finding.problem}")
    for problem in problems:
        console.print(f"[red]wrong:[/red] {escape(problem)}")
    if problems:
        sys.exit(1)
    if len(checks) > 1:
        console.print("nothing is wrong")


if __name__ == "__main__":
    run_main(main)
