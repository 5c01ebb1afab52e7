"""summary: the layers of a variant for the data set named in params.yaml, without needing the data.

python -m pipelines.commands.summary stn
"""

import argparse

from rich.console import Console
from rich.table import Table

from pipelines.evaluation.layer_table import layers
from pipelines.outputs.prepared_data import PREPARED
from pipelines.runtime.errors import UserError, run
from pipelines.runtime.files import read_json
from pipelines.settings.dataset_defaults import DATASET_DEFAULTS
from pipelines.settings.params import load_params
from pipelines.settings.variants import load_variant
from stn.classifiers import build_network
from stn.distortions import make_distortion


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.summary", description="Print the layers of a variant."
    )
    parser.add_argument("variant", help="name of a file in variants/, without .yaml")
    name = parser.parse_args().variant
    params, variant = load_params(), load_variant(name)
    dataset, size, channels = params.data.dataset, params.data.size, params.data.channels
    shape = (channels, *make_distortion(**params.data.distortion.model_dump()).framed(size, size))
    # Only the data itself knows the number of classes of a user's own set.
    classes, note = 10, ""
    if dataset not in DATASET_DEFAULTS:
        meta = read_json(PREPARED / "meta.json") if (PREPARED / "meta.json").exists() else {}
        if meta.get("dataset") == dataset:
            classes = len(meta["classes"])
        else:
            note = " (assumed until dvc repro prepare has counted them)"
    try:
        settings = variant.model_dump()
        network = build_network(shape, classes, settings["transformer"], params.train.dropout, settings["classifier"])
    except ValueError as error:
        raise UserError(f"variants/{name}.yaml: {error}") from None
    rows = layers(network, shape)
    table = Table(title=f"{name} on {dataset}: {'×'.join(map(str, shape))}, {classes} classes{note}")
    table.add_column("layer")
    table.add_column("kind")
    for column in ("output", "parameters", "multiply-adds"):
        table.add_column(column, justify="right")
    for row in rows:
        output = "×".join(map(str, row.output))
        table.add_row(row.name, row.kind, output, f"{row.parameters:,}", f"{row.multiply_adds:,}")
    table.add_section()
    parameters, multiply_adds = sum(r.parameters for r in rows), sum(r.multiply_adds for r in rows)
    table.add_row("total", "", "", f"{parameters:,}", f"{multiply_adds:,}", style="bold")
    Console().print(table)


if __name__ == "__main__":
    run(main)
