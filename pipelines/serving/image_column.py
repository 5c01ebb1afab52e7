"""MLflow's scoring server for image files in a binary column.

Clients of MLflow's own servers send tables. JSON has no bytes, so MLflow decodes a binary column from base64:
``{"dataframe_split": {"columns": ["image"], "data": [["iVBORw0…"]]}}``.
"""

from dataclasses import dataclass
from typing import Any

import pandas as pd
from fastapi import FastAPI, HTTPException
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import scoring_server
from mlflow.types import ColSpec, DataType, Schema

from pipelines.serving.limits import Limits
from pipelines.serving.loaded_version import LoadedVersion
from pipelines.serving.requests import ImageFile, decode_files

COLUMN = "image"
SIGNATURE = ModelSignature(inputs=Schema([ColSpec(DataType.binary, COLUMN)]))


@dataclass(frozen=True)
class _ImageColumn:
    """A model of image files, with the part of MLflow's interface that its scoring server uses.

    Args:
        version: answers.
        limits: limits on the images of a request.
        metadata: with :data:`SIGNATURE`.
    """

    version: LoadedVersion
    limits: Limits
    metadata: Model

    def predict(self, table: Any) -> dict:
        """Return class, probabilities and θ of the images in the column."""
        if not isinstance(table, pd.DataFrame) or list(table.columns) != [COLUMN] or table.empty:
            raise MlflowException(f"a table with the one column {COLUMN!r} is expected", BAD_REQUEST)
        if len(table) > self.limits.images:
            raise MlflowException(f"a request has at most {self.limits.images} images", BAD_REQUEST)
        files = [ImageFile(f"row {i}", content) for i, content in enumerate(table[COLUMN])]
        if not all(isinstance(file.content, bytes) for file in files):
            raise MlflowException(f"the column {COLUMN!r} holds image files in base64", BAD_REQUEST)
        try:
            return self.version.model.predict(decode_files(self.version, files, self.limits))
        except HTTPException as error:
            raise MlflowException(error.detail, BAD_REQUEST) from None


def scoring_server_for_files(version: LoadedVersion, limits: Limits) -> FastAPI:
    """Return MLflow's scoring server for image files in a binary column."""
    model: Any = _ImageColumn(version, limits, Model(signature=SIGNATURE))
    return scoring_server.init(model)
