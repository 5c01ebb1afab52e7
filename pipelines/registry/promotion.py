"""Promotion: a challenger becomes champion if it passes the gates.

Challenger and champion are loaded from the registry like any user would load them, and predict the same test images.
"""

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np
from mlflow.entities.model_registry import ModelVersion
from mlflow.pyfunc import PyFuncModel
from torch import Tensor

from pipelines.evaluation.class_scores import score_predictions
from pipelines.evaluation.robustness import area, move
from pipelines.outputs.motions import ROTATION
from pipelines.outputs.prepared_data import Labeled, load_meta, load_split
from pipelines.registry.champion import (
    Decision,
    Outcome,
    apply_decision,
    count_challengers,
    make_decision,
    promotion_lock,
)
from pipelines.registry.gates import Candidate, GroundTruth, Verdict, check_gates
from pipelines.registry.prepared_by_digest import WHERE, find_prepared
from pipelines.registry.theta_tags import ThetaTags
from pipelines.registry.versions import aliases_of, fetch_files, find_version
from pipelines.runtime.errors import UserError
from pipelines.runtime.progress import track
from pipelines.settings.metric import Metric
from pipelines.settings.params import Params
from pipelines.tracking.client import connect


class Promotion(NamedTuple):
    """A decision about a challenger, and the report on it in Markdown."""

    decision: Decision
    report: str


def promote(
    name: str, params: Params, version: str | None = None, *, dry_run: bool = False, force: str = ""
) -> Promotion | None:
    """Compare a version with the champion, and make it the champion if it passes the gates.

    Args:
        name: registered model.
        params: settings; the gates are in the section ``promote``.
        version: number or alias of the version; by default the challenger.
        dry_run: only decide; move and record nothing.
        force: reason to move the alias even if a gate refuses; it is recorded.

    Returns:
        None if the version is the champion already.

    Raises:
        UserError: the registry has no such model or version, the versions were trained on different data, or the data
            are not available here.
        ExternalError: files of a version are missing or differ from the registered ones.
    """
    client = connect()
    with promotion_lock(client, name), tempfile.TemporaryDirectory() as folder:
        versions = [find_version(client, name, version or "challenger")]
        after, before = str(versions[0].version), aliases_of(client, name).get("champion")
        if after == before:
            return None
        if before is not None:
            versions.append(find_version(client, name, before))
        prepared = _find_data(versions, Path(folder) / "prepared")
        meta, test = load_meta(prepared), load_split("test", prepared)
        candidates = _measure(versions, test, params)
        truth = GroundTruth(test.labels.numpy(), meta.classes)
        challenger, champion = candidates[0], candidates[1] if len(candidates) > 1 else None
        verdict = check_gates(params.promote, params.evaluate, challenger, champion, truth)
        digest = versions[0].tags["data_digest"]
        met = count_challengers(client, name, digest, after)
        verdict = _note_challengers(verdict, met)
        outcome = Outcome.PROMOTED if verdict.passed else Outcome.FORCED if force else Outcome.REFUSED
        gates = "; ".join(
            f"{gate.name} {'passed' if gate.passed else 'refused'}: {gate.found}" for gate in verdict.gates
        )
        decision = make_decision(outcome, before, after, reason=force, gates=gates)
        report = _write_report(name, decision, verdict, candidates, truth)
        if not dry_run:
            metrics = _metrics(verdict, candidates, truth) | {"challengers": met}
            apply_decision(client, name, decision, metrics=metrics, report=report, digest=digest)
    return Promotion(decision, report)


def _find_data(versions: Sequence[ModelVersion], target: Path) -> Path:
    """Return the folder of the prepared data of all versions; ``target`` links to them if they are in the cache."""
    digests = [version.tags.get("data_digest", "unknown") for version in versions]
    first, last = versions[0], versions[-1]
    if digests[0] != digests[-1]:
        raise UserError(
            f"MODEL: version {first.version} of {first.name} was trained on data {digests[0][:12]}, the champion, "
            f"version {last.version}, on {digests[-1][:12]}: a comparison would be meaningless"
        )
    if (found := find_prepared(digests[0], target)) is None:
        raise UserError(
            f"MODEL: version {first.version} of {first.name} was trained on data {digests[0][:12]}, which are {WHERE}"
        )
    return found


def _measure(versions: Sequence[ModelVersion], test: Labeled, params: Params) -> list[Candidate]:
    """Load each version from the registry and predict the test images, at each angle if a gate needs that."""
    labels, batch_size = test.labels.numpy(), params.evaluate.batch_size
    angles = (0,) if params.promote.rotation_margin == "none" else ROTATION.amounts
    predicted: list[list[np.ndarray]] = [[] for _ in versions]  # of each version, at each angle
    with tempfile.TemporaryDirectory() as folder:
        paths = [fetch_files(version, Path(folder) / str(version.version)) for version in versions]
        models = [mlflow.pyfunc.load_model(str(path)) for path in paths]
        for angle in track("promote", angles, len(angles)):
            for model, by_angle in zip(models, predicted, strict=True):
                by_angle.append(_predict(model, test.images, batch_size, angle))
        latencies = _measure_latencies(models, test.images[:1].numpy())
    return [
        Candidate(
            version=str(version.version),
            variant=version.tags["variant"],
            parameters=int(version.tags["parameters"]),
            predicted=by_angle[angles.index(0)],
            rotation_area=_rotation_area(by_angle, labels) if len(angles) > 1 else None,
            latency_ms=latency,
            theta=ThetaTags.from_tags(version.tags),
        )
        for version, by_angle, latency in zip(versions, predicted, latencies, strict=True)
    ]


def _rotation_area(by_angle: Sequence[np.ndarray], labels: np.ndarray) -> float:
    """Mean accuracy over rotations, from the predictions (N,) at each angle."""
    return area(ROTATION.amounts, [float((predicted == labels).mean()) for predicted in by_angle])


def _predict(model: PyFuncModel, images: Tensor, batch_size: int, angle: float) -> np.ndarray:
    """Return the predicted classes (N,) of uint8 images (N, C, H, W) that are rotated by an angle in degrees."""
    batches = (move(batch, ROTATION, angle) if angle else batch for batch in images.split(batch_size))
    return np.concatenate([model.predict(batch.numpy())["class"] for batch in batches])


def _measure_latencies(models: Sequence[PyFuncModel], image: np.ndarray, calls: int = 50) -> list[float]:
    """Return each model's median time for one image (1, C, H, W), in milliseconds; the models take turns."""
    seconds: list[list[float]] = [[] for _ in models]
    for _ in range(calls):
        for model, taken in zip(models, seconds, strict=True):
            started = time.perf_counter()
            model.predict(image)
            taken.append(time.perf_counter() - started)
    return [1000 * statistics.median(taken) for taken in seconds]


def _note_challengers(verdict: Verdict, met: int) -> Verdict:
    """Add to the p-value how many challengers have met these test images: one of many passes by chance."""
    note = f"; challenger {met} on these test images"
    gates = [gate._replace(found=gate.found + note) if gate.name == "level" else gate for gate in verdict.gates]
    return verdict._replace(gates=gates)


def _metrics(verdict: Verdict, candidates: Sequence[Candidate], truth: GroundTruth) -> dict[str, float]:
    """Return the MLflow metrics of a promotion's run."""
    metrics = {"passed": float(verdict.passed)}
    for role, candidate in zip(("challenger", "champion"), candidates, strict=False):
        scores = score_predictions(truth.labels, candidate.predicted)
        metrics |= {f"{role}_test_{metric}": value for metric, value in scores.items()}
        metrics[f"{role}_latency_ms"] = candidate.latency_ms
        if candidate.rotation_area is not None:
            metrics[f"{role}_rotation_area"] = candidate.rotation_area
    if (difference := verdict.difference) is not None:
        metrics |= {"difference": difference.difference, "low": difference.low, "high": difference.high}
    return metrics


def _write_report(
    name: str, decision: Decision, verdict: Verdict, candidates: Sequence[Candidate], truth: GroundTruth
) -> str:
    """Return the decision as Markdown: a table of the versions and a table of the gates."""
    lines = [
        f"{name}: version {decision.after}, champion so far: {decision.before}; {len(truth.labels):,} test images.",
        "",
        f"| | version | variant | parameters | {' | '.join(f'test {metric.label}' for metric in Metric)} | one image |",
        f"|---|---:|---|{'---:|' * (2 + len(Metric))}",
    ]
    for role, c in zip(("challenger", "champion"), candidates, strict=False):
        scores = score_predictions(truth.labels, c.predicted)
        cells = " | ".join(f"{scores[metric]:.2%}" for metric in Metric)
        lines.append(f"| {role} | {c.version} | {c.variant} | {c.parameters:,} | {cells} | {c.latency_ms:.1f} ms |")
    lines += ["", "| gate | wanted | found | |", "|---|---|---|---|"]
    lines += [f"| {g.name} | {g.wanted} | {g.found} | {'passed' if g.passed else 'refused'} |" for g in verdict.gates]
    if candidates[0].theta.trouble != "none":
        lines += ["", f"Trouble of version {candidates[0].version}: {candidates[0].theta.trouble}."]
    if verdict.difference is None:
        lines += ["", "There is no champion to compare with."]
    if decision.outcome == Outcome.FORCED:
        lines += ["", f"Forced by {decision.by}: {decision.reason}"]
    return "\n".join(lines) + "\n"
