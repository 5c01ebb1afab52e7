"""The import rule: packages import only from the layers below them, and stn/ imports only torch and numpy."""

import subprocess
import sys

from tools.imports import LAYERS, ROOT, cycles, edges, external_imports_of, modules, package_of, violations


def test_packages_import_from_the_layers_below_alone():
    assert violations() == []
    assert cycles() == []


def test_the_layers_name_every_package():
    named = {package for layer in LAYERS for package in layer}
    assert {package_of(module) for module in modules()} - {"pipelines"} == named
    assert len(edges()) > 20  # the imports were found


def test_the_library_imports_torch_and_numpy_alone():
    assert external_imports_of("stn") == {"torch", "numpy"}


def test_a_machine_with_torch_and_numpy_alone_can_train():
    """The library and the trainer import no other package of the environment."""
    code = """
import sys
class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ImportError(f"{name} is refused")
sys.meta_path.insert(0, Refusal())
import stn, stn.training, stn.batches, stn.distortions, pipelines.training.trainer
"""
    refused = "ray,mlflow,pydantic,optuna,safetensors,ruamel,dotenv,PIL,matplotlib,scipy,sklearn,rich,psutil,filelock"
    subprocess.run([sys.executable, "-c", code, refused], cwd=ROOT, check=True, timeout=300)
