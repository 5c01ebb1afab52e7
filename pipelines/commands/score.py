"""score: classify all images of a folder, of parquet files or of a bucket, with a version of a registered model.

    python -m pipelines.commands.score stn-cifar10 --source s3://bucket/photos --out scores

Results are parquet files. A job that was ended continues with the images that are left.
"""

import argparse
import os

from pipelines.runtime.errors import ExternalError, UserError, run_main


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.score", description="Classify all images of a folder or bucket."
    )
    parser.add_argument("model", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", default="champion", help="number or alias of the version; default: champion")
    parser.add_argument("--source", default="", help="folder of images or parquet files, or s3://bucket/folder")
    parser.add_argument("--out", default="", help="folder of the results, or s3://bucket/folder")
    parser.add_argument("--actors", type=int, help="processes with the model; default: one for each GPU, or each core")
    arguments = parser.parse_args()
    for variable, example in (("source", "photos or s3://bucket/photos"), ("out", "scores or s3://bucket/scores")):
        if not getattr(arguments, variable):
            raise UserError(f"{variable.upper()}: none given; expected a folder, such as {example}")
    if arguments.actors is not None and arguments.actors < 1:
        raise UserError(f"ACTORS: {arguments.actors} given; 1 or more are allowed")

    # Ray's core logs an error because the model is in the object store. Errors of actors are exceptions here.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    from botocore.exceptions import BotoCoreError

    from pipelines.serving.scoring import score
    from pipelines.tracking.client import store_errors_explained

    try:
        with store_errors_explained("finished results are kept"):
            scored = score(arguments.model, arguments.version, arguments.source, arguments.out, arguments.actors)
    except BotoCoreError as error:
        raise ExternalError(f"S3 does not answer ({error}); finished results are kept") from None
    speed = f"; {scored.now / scored.seconds:,.0f} images/s" if scored.now else ""
    print(f"{scored.label}: {scored.scored:,} images scored, {scored.broken:,} broken, in {arguments.out}{speed}")


if __name__ == "__main__":
    run_main(main)
