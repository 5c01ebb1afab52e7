"""Promotion: the challenger is put to the gates, and becomes champion if it passes."""

import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import mlflow
import numpy as np

from pipelines.evaluation.robustness import area, move
from pipelines.outputs.evaluation_results import ROTATION
from pipelines.outputs.prepared_data import Labeled, load_meta, load_split
from pipelines.registry import champion
from pipelines.registry.gates import Candidate, Verdict, judge
from pipelines.registry.versions import aliases_of, fetch_files, find_version
from pipelines.runtime.errors import UserError
from pipelines.runtime.progress import track
from pipelines.settings.params import Params
from pipelines.tracking.client import connect


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
        UserError: no such model or version, or it is one made from other data than those prepared here.
        ExternalError: a version's files are gone or are not those that were registered.
    """
    client, meta = connect(), load_meta()
    with champion.promotion_lock(client, name):
        rivals = [find_version(client, name, version or "challenger")]
        after, before = str(rivals[0].version), aliases_of(client, name).get("champion")
        if after == before:
            return None
        if before is not None:
            rivals.append(find_version(client, name, before))
        for found in rivals:
            if found.tags.get("data_digest") != meta["digest"]:
                raise UserError(
                    f"MODEL: version {found.version} of {name} was made from data "
                    f"{found.tags.get('data_digest', 'unknown')}, data/prepared holds {meta['digest']}: the comparison "
                    f"would say nothing. Bring those data back, or register both versions from these"
                )
        test = load_split("test")
        challenger, *others = _measure(rivals, test, params)
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


def _measure(rivals: list, test: Labeled, params: Params) -> list[Candidate]:
    """Load each version from the registry and have all answer the test images, turned by each angle where asked."""
    truth, size = test.labels.numpy(), params.evaluate.batch_size
    angles = (0,) if params.promote.rotation_margin == "none" else ROTATION.amounts
    right: list[list[np.ndarray]] = [[] for _ in rivals]  # of each version, at each angle
    with tempfile.TemporaryDirectory() as folder:
        paths = [fetch_files(found, Path(folder) / str(found.version)) for found in rivals]
        loaded = [mlflow.pyfunc.load_model(str(path)) for path in paths]
        for angle in track("promote", angles, len(angles)):
            shown = (move(test.images, ROTATION, angle) if angle else test.images).numpy()
            for model, of_model in zip(loaded, right, strict=True):
                batches = [model.predict(shown[start : start + size])["class"] for start in range(0, len(shown), size)]
                of_model.append(np.concatenate(batches) == truth)
        latencies = _latencies(loaded, test.images[:1].numpy())
    return [
        Candidate(
            version=str(found.version),
            variant=found.tags["variant"],
            parameters=int(found.tags["parameters"]),
            right=of_model[angles.index(0)],
            rotation_area=area(angles, [float(r.mean()) for r in of_model]) if len(angles) > 1 else None,
            latency_ms=latency,
        )
        for found, of_model, latency in zip(rivals, right, latencies, strict=True)
    ]


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
    if decision.outcome == champion.FORCED:
        lines += ["", f"Forced by {decision.by}: {decision.reason}"]
    return "\n".join(lines) + "\n"
