"""prepare: read a data set from any source and write data/prepared: splits of uint8 tensors, and meta.json."""

from pipelines.runtime.errors import run_main
from pipelines.settings.params import load_params


def main() -> None:
    params = load_params()
    # Imported only after the settings are checked, because torch takes seconds to import.
    from pipelines.preparation.run import prepare, report
    from pipelines.runtime.progress import print_duration

    report(prepare(params))
    print_duration("prepare")


if __name__ == "__main__":
    run_main(main)
