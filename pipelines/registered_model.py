"""The code of every registered model: MLflow stores this file beside the exported network and runs it on loading.

Needs torch, numpy and mlflow and nothing of this project, so that a champion and a challenger of different ages can be
loaded side by side, anywhere.
"""

import mlflow
import numpy as np
import torch


class ExportedNetwork(mlflow.pyfunc.PythonModel):
    """uint8 images (B, C, H, W) → ``class``, ``probabilities`` and, with a transformer, ``theta``, all as arrays."""

    def load_context(self, context):
        self.network = torch.export.load(context.artifacts["network"]).module()

    def predict(self, context, model_input, params=None):
        images = torch.from_numpy(np.array(model_input, dtype=np.uint8))
        with torch.inference_mode():
            return {name: values.numpy() for name, values in self.network(images).items()}


mlflow.models.set_model(ExportedNetwork())
