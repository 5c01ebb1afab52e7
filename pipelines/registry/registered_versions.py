"""``registered.json``, the output of the stage register."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.runtime.files import read_json, write_json

REGISTERED = Path("registered.json")


@dataclass(frozen=True)
class RegisteredVersions:
    """Versions that the stage register registered or found, and the aliases.

    Args:
        model: name of the registered model.
        versions: variant → number of its version.
        challenger: version that the alias ``challenger`` points to.
        champion: version that the alias ``champion`` points to; None if there is no champion.
    """

    model: str
    versions: Mapping[str, str]
    challenger: str
    champion: str | None

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RegisteredVersions":
        """Parse the content of ``registered.json``."""
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``registered.json``."""
        return asdict(self)


def write_registered(registered: RegisteredVersions, path: Path = REGISTERED) -> None:
    """Write ``registered.json``."""
    write_json(path, registered.to_json())


def read_registered(path: Path = REGISTERED) -> RegisteredVersions:
    """Read ``registered.json``.

    Raises:
        ExternalError: the file is damaged.
    """
    return RegisteredVersions.from_json(read_json(path))
