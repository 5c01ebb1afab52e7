"""provenance: print what a registered version was made from, or the versions made from a commit or from data.

python -m pipelines.commands.provenance stn-cifar10 --version 3
python -m pipelines.commands.provenance --commit 1a2b3c4
python -m pipelines.commands.provenance --data 4e23ec36
"""

import argparse

from pipelines.runtime.errors import UserError, run_main


def print_provenance(name: str, version: str) -> None:
    """Print the provenance of a version, given by number or alias."""
    from pipelines.registry.provenance import trace_version
    from pipelines.tracking.client import connect

    for section in trace_version(connect(), name, version):
        print(section.title)
        for key, text in section.entries.items():
            print(f"  {key:<28} {text}")


def print_versions(setting: str, tag: str, prefix: str, name: str | None) -> None:
    """Print the versions whose ``tag`` starts with ``prefix``, of all models or of the model ``name``.

    Raises:
        UserError: there is none; the message names ``setting``.
    """
    from pipelines.registry.provenance import find_versions, format_time
    from pipelines.tracking.client import connect

    versions = find_versions(connect(), tag, prefix, name) if prefix else []
    if not versions:
        raise UserError(f"{setting}: {prefix!r} given; no version was made from it")
    for version in versions:
        tags = version.tags
        dirty = ", with uncommitted changes" if tags.get("git_dirty") == "true" else ""
        print(
            f"{version.name} version {version.version}: {tags['variant']}, commit {tags['git_commit'][:10]}{dirty}, "
            f"data {tags['data_digest'][:12]}, {format_time(version.creation_timestamp)}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.commands.provenance",
        description="Print what a registered version was made from, or the versions made from a commit or from data.",
    )
    parser.add_argument("model", nargs="?", help="name of a registered model, such as stn-cifar10")
    parser.add_argument("--version", default="champion", help="number or alias of the version; default: champion")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--commit", help="list the versions made from this commit; a prefix is enough")
    source.add_argument("--data", help="list the versions made from data with this digest; a prefix is enough")
    arguments = parser.parse_args()
    name, commit, data = arguments.model, arguments.commit, arguments.data
    if name is None and commit is None and data is None:
        raise UserError("MODEL: none given; name a registered model, or give COMMIT or DATA")

    from pipelines.tracking.client import store_errors_explained

    with store_errors_explained("nothing was changed"):
        if commit is not None:
            print_versions("COMMIT", "git_commit", commit, name)
        elif data is not None:
            print_versions("DATA", "data_digest", data, name)
        else:
            assert name is not None
            print_provenance(name, arguments.version)


if __name__ == "__main__":
    run_main(main)
