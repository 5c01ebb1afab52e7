"""The code of every registered model: MLflow stores this file beside the exported network and runs it on loading.

Needs torch, numpy and mlflow and nothing of this project, so that a champion and a challenger of different ages can be
loaded side by side, anywhere.
"""

import numpy as np
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel


class ExportedNetwork(PythonModel):
    """uint8 images (B, C, H, W) → ``class``, ``probabilities`` and, with a transformer, ``theta``, all as arrays."""

    def load_context(self, context):
        self.network = torch.export.load(context.artifacts["network"]).module()

    def predict(self, context, model_input: np.ndarray, params=None):  # pyright: ignore[reportIncompatibleMethodOverride]
        images = torch.from_numpy(np.array(model_input, dtype=np.uint8))
        with torch.inference_mode():
            return {name: values.numpy() for name, values in self.network(images).items()}


set_model(ExportedNetwork())
