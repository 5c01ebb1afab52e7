"""The free memory: that of the machine, or what the cgroups of this process leave."""

from pathlib import Path

import psutil
import pytest

from pipelines.runtime import free_memory as module
from pipelines.runtime.free_memory import free_memory

MIB = 2**20
FILES = {
    2: ("memory.max", "memory.current", "inactive_file", "active_file"),
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file"),
}


def write_group(folder: Path, version: int, limit: str, used: int, inactive: int, active: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = FILES[version]
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {inactive}\n{names[3]} {active}\n")


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(module, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(module, "OWN_CGROUPS", tmp_path / "self")
    return tmp_path / "cgroup"


@pytest.mark.parametrize("version", [1, 2])
def test_the_nearest_limit_counts_and_pages_of_files_are_free(root, version):
    (root.parent / "self").write_text({1: "3:cpu:/x\n4:memory:/a/b\n0::/\n", 2: "0::/a/b\n"}[version])
    top = root / "memory" if version == 1 else root
    write_group(top / "a/b", version, "max" if version == 2 else str(2**63 - 4096), 90 * MIB, 0, 0)
    write_group(top / "a", version, str(100 * MIB), 80 * MIB, 30 * MIB, 20 * MIB)
    assert free_memory() == 70 * MIB


@pytest.mark.parametrize("own", ["0::/a\n", "", None])
def test_without_a_limit_it_is_the_machines(root, own):
    if own is not None:
        (root.parent / "self").write_text(own)
    assert 0 < free_memory() <= psutil.virtual_memory().total
