"""Code of every registered model: MLflow stores this file with the exported network and runs it on loading.

It requires torch, numpy and mlflow but nothing of this project, so models registered by different versions of this
project can be loaded into one process, on any machine.
"""

import logging

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ExportedNetwork(PythonModel):
    """Maps uint8 images (B, C, H, W) to ``class``, ``probabilities`` and, with a transformer, ``theta``.

    It uses a GPU if there is one, else the CPU.
    """

    def load_context(self, context):
        program = torch.export.load(context.artifacts["network"])
        self.device = "cpu"
        if torch.cuda.is_available():
            from torch.export.passes import move_to_device_pass

            program, self.device = move_to_device_pass(program, "cuda"), "cuda"
        logging.getLogger("mlflow.pyfunc.model").info("The network runs on %s", self.device)
        self.network = program.module()

    def predict(self, context, model_input: np.ndarray, params=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        images = torch.from_numpy(np.array(model_input, dtype=np.uint8)).to(self.device)
        with torch.inference_mode():
            return {name: values.cpu().numpy() for name, values in self.network(images).items()}


set_model(ExportedNetwork())
