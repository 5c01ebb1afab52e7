"""Code of every registered model: MLflow stores this file with the exported network and runs it on loading.

It requires torch, numpy and mlflow but nothing of this project, so models registered by different versions of this
project can be loaded into one process, on any machine.
"""

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ExportedNetwork(PythonModel):
    """Maps uint8 images (B, C, H, W) to ``class``, ``probabilities`` and, with a transformer, ``theta``."""

    def load_context(self, context):
        self.network = torch.export.load(context.artifacts["network"]).module()

    def predict(self, context, model_input: np.ndarray, params=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        images = torch.from_numpy(np.array(model_input, dtype=np.uint8))
        with torch.inference_mode():
            return {name: values.numpy() for name, values in self.network(images).items()}


set_model(ExportedNetwork())
