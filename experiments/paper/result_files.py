"""The results of the trainings and of the co-localization: one JSON file each, kept in git."""

from dataclasses import asdict, dataclass

from experiments.paper.settings import COLOCALIZATION, FOLDER, LONG, Schedule
from pipelines.runtime.errors import UserError
from pipelines.runtime.files import read_json, write_json

RESULTS = FOLDER / "results"


@dataclass(frozen=True)
class Result:
    """The result of one training.

    Args:
        task: a distortion or ``addition``.
        test_error, validation_error: in percent.
        parameters: number of parameters of the network.
        seconds: duration of the training, without evaluation.
        device: name of the GPU, or ``CPU``.
        precision: dtype of autocast.
        schedule: ``long`` is the paper's, with 150,000 steps.
    """

    task: str
    network: str
    seed: int
    test_error: float
    validation_error: float
    parameters: int
    train_images: int
    test_images: int
    epochs: int
    seconds: float
    device: str
    precision: str
    schedule: Schedule = "short"


@dataclass(frozen=True)
class ColocalizationResult:
    """The result of the co-localization of one digit.

    Args:
        T, TC: the percentage of images in which the digit was found, on a black canvas and among clutter; named as in
            the paper, for "translated" and "translated, cluttered".
    """

    digit: int
    images: int
    starts: int
    steps: int
    T: float
    TC: float


def write_result(result: Result) -> None:
    """Write ``results/<task>/<network>/<seed>.json``, or the same in ``results/long/``."""
    folder = RESULTS / LONG if result.schedule == LONG else RESULTS
    write_json(folder / result.task / result.network / f"{result.seed}.json", asdict(result))


def write_colocalization(result: ColocalizationResult) -> None:
    """Write ``results/colocalization/<digit>.json``."""
    write_json(RESULTS / COLOCALIZATION / f"{result.digit}.json", asdict(result))


def load_results() -> list[Result]:
    """Read the results of all trainings, of both schedules.

    Raises:
        UserError: there are none.
    """
    files = [*sorted(RESULTS.glob("*/*/*.json")), *sorted((RESULTS / LONG).glob("*/*/*.json"))]
    results = [Result(**read_json(path)) for path in files]
    if not results:
        raise UserError(f"{RESULTS}: no results here; make some with: make paper ONLY=R")
    return results


def load_colocalization() -> list[ColocalizationResult]:
    """Read the results of the co-localization, one for each digit."""
    return [ColocalizationResult(**read_json(path)) for path in sorted((RESULTS / COLOCALIZATION).glob("*.json"))]
