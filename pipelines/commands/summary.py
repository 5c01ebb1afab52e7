"""summary: print the layers of a variant for the data set named in params.yaml. The data is not needed.

python -m pipelines.commands.summary stn
"""

import argparse

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from pipelines.runtime.errors import run_main
from pipelines.settings.params import Params, load_params
from pipelines.settings.variants import VariantParams, load_variant

ASSUMED_CLASSES = 10
MOST_ROWS = 40  # of the table; layers of larger networks are merged


def count_classes(dataset: str) -> tuple[int, str]:
    """Return the number of classes of a data set, which is known after ``prepare``, and a note if it is assumed."""
    from pipelines.outputs.prepared_data import PREPARED, load_meta

    if (PREPARED / "meta.json").exists() and (meta := load_meta()).dataset == dataset:
        return len(meta.classes), ""
    return ASSUMED_CLASSES, " (assumed until dvc repro prepare has counted them)"


def make_table(name: str, variant: VariantParams, params: Params) -> Table:
    """Return the table of the layers of the variant ``name``.

    Raises:
        UserError: the images do not fit the network.
    """
    from pipelines.evaluation.layer_table import group_layers, layers
    from pipelines.networks.build import check_network, network_settings
    from stn.classifiers import build_network
    from stn.distortions import make_distortion

    data, form = params.data, params.data.form
    distortion = make_distortion(**data.distortion.model_dump())
    height, width = distortion.framed(form.height, form.width)
    shape = (form.channels, height, width)
    classes, note = count_classes(data.dataset)
    check_network(name, variant, shape, classes)
    network = build_network(network_settings(variant, shape, classes, params.train.dropout))
    rows = group_layers(layers(network, shape), MOST_ROWS)
    table = Table(title=f"{name} on {data.dataset}: {'×'.join(map(str, shape))}, {classes} classes{note}")
    table.add_column("layer")
    table.add_column("kind")
    for header in ("output", "parameters", "multiply-adds"):
        table.add_column(header, justify="right")
    for row in rows:
        output = "×".join(map(str, row.output))
        table.add_row(escape(row.name), row.kind, output, f"{row.parameters:,}", f"{row.multiply_adds:,}")
    table.add_section()
    parameters, multiply_adds = sum(row.parameters for row in rows), sum(row.multiply_adds for row in rows)
    table.add_row("total", "", "", f"{parameters:,}", f"{multiply_adds:,}", style="bold")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.summary", description="Print the layers of a variant."
    )
    parser.add_argument("variant", help="name of a file in variants/, without .yaml")
    name = parser.parse_args().variant
    params, variant = load_params(), load_variant(name)
    Console().print(make_table(name, variant, params))


if __name__ == "__main__":
    run_main(main)
