"""prepare: any source → data/prepared, uint8 tensors in three splits with a meta.json that describes them."""

from pipelines.runtime.errors import run
from pipelines.settings.params import load_params


def main() -> None:
    params = load_params()
    # Imports torch, which takes seconds: only after the settings have been checked.
    from pipelines.preparation.run import prepare, report

    report(prepare(params))


if __name__ == "__main__":
    run(main)
