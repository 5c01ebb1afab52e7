"""What the paper's networks undo: the command, against the training of the table."""

import sys

import pytest

from experiments.paper import undone
from experiments.paper.training import train
from pipelines.runtime.errors import UserError, run_main
from pipelines.settings.recipe import AlignmentParams

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize(("task", "network"), [("RTS", "ST-FCN-affine"), ("addition", "2xST-FCN-affine")])
def test_without_the_term_the_error_is_that_of_the_table(params, task, network):
    error, alignment = undone.measure(task, network, 1, params.train_of(task, "short"))
    assert error == train(task, network, 1, params).test_error
    assert alignment.slopes.keys() == {"rotation", "scale", "shift"}
    assert alignment.fixed_error > 3, "the test images are moved"
    assert alignment.undone == pytest.approx(1 - alignment.corner_error / alignment.fixed_error)


@pytest.mark.slow
def test_with_the_term_more_is_undone(params, monkeypatch, capsys):
    longer = params.train.model_copy(update={"epochs": 40})
    monkeypatch.setattr(undone, "load_params", lambda: params.model_copy(update={"train": longer}))
    shares = []
    for weight in ("0", "10"):
        monkeypatch.setattr(sys, "argv", ["undone", "RTS", "ST-FCN-similarity", "0", f"--weight={weight}"])
        undone.main()
        printed = capsys.readouterr().out.splitlines()
        assert any(
            line.startswith(f"RTS ST-FCN-similarity weight {weight} ramp 0 seed 0: test error ") for line in printed
        )
        shares.append(float(printed[-1].removeprefix("  undone ").removesuffix(" %")))
    assert shares[1] > shares[0] + 10, shares


def test_epochs_the_term_and_the_ramp_change_what_is_measured(params):
    longer = params.train_of("addition", "short").model_copy(update={"epochs": 8})
    changes = ({"epochs": 2}, {}, {"alignment": AlignmentParams(weight=1.0, to="upright")}, {"distortion_ramp": 6})
    given = [longer.model_copy(update=change) for change in changes]
    measured = [undone.measure("addition", "2xST-FCN-affine", 0, settings)[1] for settings in given]
    assert len({alignment.corner_error for alignment in measured}) == 4, measured


def test_the_settings_are_those_given_or_those_of_the_table(params, monkeypatch):
    used = []

    def measure(task, network, seed, settings):
        used.append((settings.epochs, settings.distortion_ramp, settings.alignment))
        raise UserError("enough")

    monkeypatch.setattr(undone, "load_params", lambda: params)
    monkeypatch.setattr(undone, "measure", measure)
    for options in ([], ["--ramp=0"], ["--epochs=8", "--ramp=6", "--weight=1", "--to=itself"]):
        monkeypatch.setattr(sys, "argv", ["undone", "addition", "2xST-FCN-affine", "0", *options])
        with pytest.raises(UserError, match="enough"):
            undone.main()
    none = AlignmentParams(weight=0.0, to="upright")
    assert used == [(2, 1, none), (2, 0, none), (8, 6, AlignmentParams(weight=1.0, to="itself"))]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["R", "CNN", "0"], "'CNN'"),
        (["R", "ST-CNN-affine", "0", "--weight=-1"], "--weight: -1 given; 0 to 1000"),
        (["R", "ST-CNN-affine", "0", "--epochs=0"], "--epochs: 0 given; 1 or more"),
        (["R", "ST-CNN-affine", "0", "--ramp=-1"], "--ramp: -1 given; 0 to 14"),
        (["addition", "ST-FCN-affine", "0", "--epochs=5"], "--ramp: 5 given; 0 to 4"),
    ],
)
def test_what_cannot_be_measured_is_refused(arguments, named, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["undone", *arguments])
    with pytest.raises(SystemExit, match=r"^2$"):
        run_main(undone.main)
    assert named in capsys.readouterr().err
