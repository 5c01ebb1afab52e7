"""Short names made of what they stand for."""

import hashlib
import json
import sys
from pathlib import Path


def key_of(*parts) -> str:
    """A short name for everything that ``parts`` (JSON values) say."""
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def digest_code(*names: str) -> str:
    """SHA-256 over the source of those of the project's modules named, by full name or package, that are imported."""
    digest = hashlib.sha256()
    for name, module in sorted(sys.modules.items()):
        if any(name == wanted or name.startswith(f"{wanted}.") for wanted in names) and module.__file__:
            digest.update(name.encode() + b"\0" + Path(module.__file__).read_bytes() + b"\0")
    return digest.hexdigest()
