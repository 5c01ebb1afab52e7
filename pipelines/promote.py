"""promote: put the challenger of a registered model to the gates of params.yaml; if it passes, it becomes champion.

Challenger and champion are loaded from the registry as any user would, and both answer the same prepared test images.
The decision, passed or refused, is recorded as an MLflow run and on the version. Exit code 3: refused.

    python -m pipelines.promote stn-cifar10 --dry-run
"""

import argparse
import hashlib
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from pipelines.errors import GateRefused, UserError, WorldError, run
from pipelines.params import Params, load_params

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import mlflow.pyfunc
import numpy as np
import torch
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from pipelines import champion, tracking
from pipelines.gates import Candidate, Verdict, judge
from pipelines.prepared import Labeled, load_meta, load_split
from pipelines.progress import track
from stn.distortions import distort, sampling_matrix

# Degrees by which all test images are turned for the gate of rotations.
ANGLES = range(-90, 91, 15)
DIGEST_TAG = "sha256_"


class Outcome(NamedTuple):
    """What was decided, for whom, and the report on it."""

    decision: champion.Decision
    report: str


def promote(
    name: str, params: Params, version: str | None = None, dry_run: bool = False, force: str = ""
) -> Outcome | None:
    """Test the challenger, or another ``version``, against the champion, and move the alias if it passes.

    Args:
        dry_run: decide only; nothing is moved and nothing recorded.
        force: a reason to move the alias whatever the gates say; it is recorded.

    Returns:
        None where that version is the champion already.

    Raises:
        UserError: no such model or version, or one made from other data than those prepared here.
        WorldError: a version's files are gone or are not those that were registered.
    """
    client, meta = tracking.connect(), load_meta()
    with champion.held(client, name):
        aliases = tracking.aliases(client, name)
        versions = {str(found.version): found for found in tracking.registered_versions(client, name)}
        if not versions:
            raise UserError(
                f"MODEL: {name!r} given; the registry has no such model (it has: {champion.known(client)}). "
                f"dvc repro register makes one"
            )
        if version is None and "challenger" not in aliases:
            raise UserError(f"MODEL: {name!r} given; it has no challenger. dvc repro register makes one")
        after, before = version or aliases["challenger"], aliases.get("champion")
        if after not in versions:
            raise UserError(f"VERSION: {after!r} given; {name} has the versions {', '.join(sorted(versions, key=int))}")
        if after == before:
            return None
        rivals = [versions[number] for number in (after, before) if number is not None]
        for found in rivals:
            if found.tags.get("data_digest") != meta["digest"]:
                raise UserError(
                    f"MODEL: version {found.version} of {name} was made from data "
                    f"{found.tags.get('data_digest', 'unknown')}, data/prepared holds {meta['digest']}: the comparison "
                    f"would say nothing. Bring those data back, or register both versions from these"
                )
        test = load_split("test")
        challenger, *others = _measure(name, rivals, test, params)
        truth = test.labels.numpy()
        verdict = judge(
            params.promote, params.evaluate, challenger, others[0] if others else None, truth, meta["classes"]
        )
        outcome = champion.PROMOTED if verdict.passed else champion.FORCED if force else champion.REFUSED
        ended = "; ".join(
            f"{gate.name} {'passed' if gate.passed else 'refused'}: {gate.found}" for gate in verdict.gates
        )
        decision = champion.decide(outcome, before, after, force, ended)
        report = _report(name, decision, verdict, [challenger, *others], len(truth))
        if not dry_run:
            champion.record(client, name, decision, _figures(challenger, others, verdict), report)
    return Outcome(decision, report)


def _measure(name: str, rivals: list, test: Labeled, params: Params) -> list[Candidate]:
    """Load each version from the registry and have all answer the test images, turned by each angle where asked."""
    images, truth = test.images.numpy(), test.labels.numpy()
    turned = [0] if params.promote.rotation_margin == "none" else [0, *(angle for angle in ANGLES if angle)]
    right: dict[tuple[str, int], np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        loaded = [_load(name, found, Path(folder) / str(found.version)) for found in rivals]
        work = [(angle, found, model) for angle in turned for found, model in zip(rivals, loaded, strict=True)]
        for angle, found, model in track("promote", work, len(work)):
            shown = images if angle == 0 else turn(test, angle)
            size = params.evaluate.batch_size
            batches = [model.predict(shown[start : start + size])["class"] for start in range(0, len(shown), size)]
            right[found.version, angle] = np.concatenate(batches) == truth
        latencies = _latencies(loaded, images[:1])
    return [
        Candidate(
            version=str(found.version),
            variant=found.tags["variant"],
            parameters=int(found.tags["parameters"]),
            right=right[found.version, 0],
            rotation_area=_area({angle: right[found.version, angle] for angle in turned}) if len(turned) > 1 else None,
            latency_ms=latency,
        )
        for found, latency in zip(rivals, latencies, strict=True)
    ]


def _load(name: str, found, folder: Path) -> Any:
    """A version as MLflow loads it, once its files are known to be those that were registered."""
    folder.mkdir()
    where = f"version {found.version} of {name}"
    try:
        download_artifacts(f"models:/{name}/{found.version}", dst_path=str(folder))
    except (MlflowException, OSError) as error:
        raise WorldError(f"{where}: its files cannot be read ({error}); dvc repro --force register mends it") from None
    digests = {key.removeprefix(DIGEST_TAG): value for key, value in found.tags.items() if key.startswith(DIGEST_TAG)}
    for file, digest in digests.items():
        path = next(iter(folder.rglob(file)), None)
        if path is None:
            raise WorldError(f"{where}: its file {file} is gone; nothing of it was loaded")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise WorldError(f"{where}: its file {file} is not the one that was registered; nothing of it was loaded")
    if not digests:
        raise WorldError(f"{where}: it has no tag {DIGEST_TAG}… to know its files by; nothing of it was loaded")
    return mlflow.pyfunc.load_model(str(next(folder.rglob("MLmodel")).parent))


def turn(test: Labeled, angle: float) -> np.ndarray:
    """All images, uint8 (N, C, H, W), turned clockwise by ``angle`` degrees, what is uncovered black."""
    height, width = test.images.shape[-2:]
    one = torch.ones(1)
    matrix = sampling_matrix(torch.deg2rad(angle * one), one, 0 * one, 0 * one, aspect=width / height)
    chunks = [
        distort(images.float(), matrix.expand(len(images), 2, 3), "zeros").round().clamp(0, 255).byte()
        for images in test.images.split(1000)
    ]
    return torch.cat(chunks).numpy()


def _area(right: dict[int, np.ndarray]) -> float:
    """The area under the curve of accuracy over angles, over its width: the mean accuracy over rotations."""
    angles = sorted(right)
    return float(np.trapezoid([right[angle].mean() for angle in angles], angles) / (angles[-1] - angles[0]))


def _latencies(models: list, image: np.ndarray, calls: int = 50) -> list[float]:
    """Median milliseconds of an answer for one image, the models in turn."""
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(calls):
        for model, of_model in zip(models, seconds, strict=True):
            started = time.perf_counter()
            model.predict(image)
            of_model.append(time.perf_counter() - started)
    return [1000 * statistics.median(of_model) for of_model in seconds]


def _figures(challenger: Candidate, others: list[Candidate], verdict: Verdict) -> dict[str, float]:
    figures = {"passed": float(verdict.passed)}
    for role, candidate in zip(("challenger", "champion"), [challenger, *others], strict=False):
        figures[f"{role}_test_accuracy"] = float(candidate.right.mean())
        figures[f"{role}_latency_ms"] = candidate.latency_ms
        if candidate.rotation_area is not None:
            figures[f"{role}_rotation_area"] = candidate.rotation_area
    if (difference := verdict.difference) is not None:
        figures |= {"difference": difference.difference, "low": difference.low, "high": difference.high}
    return figures


def _report(name: str, decision: champion.Decision, verdict: Verdict, candidates: list[Candidate], count: int) -> str:
    """The decision as Markdown: the two versions, then gate by gate."""
    lines = [
        f"{name}: version {decision.after}, champion so far: {decision.before}; {count:,} test images.",
        "",
        "| | version | variant | parameters | test accuracy | one image |",
        "|---|---:|---|---:|---:|---:|",
    ]
    for role, c in zip(("challenger", "champion"), candidates, strict=False):
        lines.append(
            f"| {role} | {c.version} | {c.variant} | {c.parameters:,} | {c.right.mean():.2%} | {c.latency_ms:.1f} ms |"
        )
    lines += ["", "| gate | wanted | found | |", "|---|---|---|---|"]
    lines += [f"| {g.name} | {g.wanted} | {g.found} | {'passed' if g.passed else 'refused'} |" for g in verdict.gates]
    if verdict.difference is None:
        lines += ["", "There is no champion to compare with."]
    if decision.reason:
        lines += ["", f"Forced by {decision.by}: {decision.reason}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.promote",
        description="Put the challenger of a registered model to the gates of params.yaml; passing, it is champion.",
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", help="another version than the challenger")
    parser.add_argument("--dry-run", action="store_true", help="decide only; nothing is moved or recorded")
    parser.add_argument("--force", default="", metavar="REASON", help="move the alias whatever the gates say, and why")
    arguments = parser.parse_args()
    name = arguments.model
    with tracking.needed("the champion is the same as before"):
        outcome = promote(name, load_params(), arguments.version, arguments.dry_run, arguments.force.strip())
    if outcome is None:
        print(f"{name}: version {arguments.version or tracking.aliases(tracking.connect(), name)['challenger']} "
              f"is the champion already")  # fmt: skip
        return
    print(outcome.report)
    decision = outcome.decision
    would = "would be " if arguments.dry_run else ""
    if not decision.moved:
        raise GateRefused(f"{name}: version {decision.after} is {would}refused, the champion stays {decision.before}")
    print(f"{name}: champion {'would move' if arguments.dry_run else 'moved'} from version {decision.before} "
          f"to version {decision.after} ({decision.outcome})")  # fmt: skip


if __name__ == "__main__":
    run(main)
