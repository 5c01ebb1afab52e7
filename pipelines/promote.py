"""promote: put the challenger of a registered model to the gates of params.yaml; if it passes, it becomes champion.

Challenger and champion are loaded from the registry as any user would, and both answer the same prepared test images.
The decision, passed or refused, is recorded as an MLflow run and on the version. Exit code 3: refused.

    python -m pipelines.promote stn-cifar10 --dry-run
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from pipelines.errors import GateRefused, UserError, run
from pipelines.params import Params, load_params

if __name__ == "__main__":
    run(load_params)  # a mistake in the settings is answered before torch takes seconds to import

import mlflow.pyfunc
import numpy as np

from pipelines import champion, registry, tracking
from pipelines.gates import Candidate, Verdict, judge
from pipelines.prepared import Labeled, load_meta, load_split
from pipelines.progress import track
from pipelines.robustness import ROTATION, area


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
        WorldError: a version's files are gone or are not those that were registered.
    """
    client, meta = tracking.connect(), load_meta()
    with champion.held(client, name):
        rivals = [registry.find(client, name, version or "challenger")]
        after, before = str(rivals[0].version), tracking.aliases(client, name).get("champion")
        if after == before:
            return None
        if before is not None:
            rivals.append(registry.find(client, name, before))
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
        paths = [registry.fetch(found, Path(folder) / str(found.version)) for found in rivals]
        loaded = [mlflow.pyfunc.load_model(str(path)) for path in paths]
        for angle in track("promote", angles, len(angles)):
            shown = (ROTATION.apply(test.images, angle) if angle else test.images).numpy()
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
        version = f"version {arguments.version}" if arguments.version else "the challenger"
        print(f"{name}: {version} is the champion already")
        return
    print(outcome.report)
    decision = outcome.decision
    if not decision.moved:
        is_ = "would be" if arguments.dry_run else "is"
        raise GateRefused(f"{name}: version {decision.after} {is_} refused, the champion stays {decision.before}")
    moved = "would move" if arguments.dry_run else "moved"
    way = f"from version {decision.before} to version {decision.after} ({decision.outcome})"
    print(f"{name}: champion {moved} {way}")


if __name__ == "__main__":
    run(main)
