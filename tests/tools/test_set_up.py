"""set_up: old Pythons and Intel Macs are refused in one line; both parts of the lock are installed; failures show pip's
own message.

The whole set-up runs before every test run on a fresh clone.
"""

import sys

import pytest

from tools import set_up


@pytest.mark.parametrize(
    ("version", "system", "machine", "message"),
    [
        ((3, 10, 12), "linux", "x86_64", "3.11 or newer is needed"),
        ((3, 12, 0), "darwin", "x86_64", "Intel"),
        ((3, 12, 0), "darwin", "arm64", ""),
        ((3, 11, 0), "linux", "aarch64", ""),
    ],
)
def test_machines_without_packages_are_refused_in_one_line(monkeypatch, version, system, machine, message):
    monkeypatch.setattr(sys, "version_info", version)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    problem = set_up.problem_of_machine()
    assert message in problem and bool(problem) == bool(message) and "\n" not in problem


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """A folder with a lock of four packages and an environment whose pip is a given script."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(set_up, "INSTALL", [sys.executable, "pip.py"])
    packages = tmp_path / ".venv/lib/python3.11/site-packages"
    packages.mkdir(parents=True)
    (tmp_path / "requirements.lock").write_text("aiohttp==1\nmlflow==2 ; python_version > '3'\npip==1\ntorch==3\n")

    def install(script: str) -> None:
        (tmp_path / "pip.py").write_text(script)
        set_up.install_packages()

    return install


def test_each_package_of_the_lock_is_installed_once(pip, tmp_path):
    pip(
        "import pathlib, sys; file = pathlib.Path(sys.argv[-1]); file.with_suffix('.done').write_text(file.read_text())"
    )
    first, second = (tmp_path / f".venv/pip-{number}.done" for number in (1, 2))
    assert first.read_text() + second.read_text() == (tmp_path / "requirements.lock").read_text()
    assert "mlflow" in first.read_text() and "torch" in second.read_text()


def test_a_failure_of_pip_shows_its_message_and_its_log(pip):
    with pytest.raises(SystemExit) as ended:
        pip("import sys; print('no matching distribution for torch==3'); sys.exit('pip-2' in sys.argv[-1])")
    assert "no matching distribution for torch==3" in str(ended.value.code) and "pip-2.log" in str(ended.value.code)


def test_a_failure_stops_the_other_process(pip, tmp_path):
    script = "import pathlib, sys, time; time.sleep(0 if 'pip-2' in sys.argv[-1] else 5); "
    script += "pathlib.Path('finished').touch() if 'pip-1' in sys.argv[-1] else sys.exit(1)"
    with pytest.raises(SystemExit):
        pip(script)
    assert not (tmp_path / "finished").exists()


def test_progress_counts_the_packages_of_this_system(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".venv/lib/python3.12/site-packages/torch-3.dist-info").mkdir(parents=True)
    (tmp_path / "1.log").write_text("Ignoring pywin32: markers do not match\nCollecting torch==3\n")
    (tmp_path / "2.log").write_text("Requirement already satisfied: six\n")
    set_up.show_progress(10, [tmp_path / "1.log", tmp_path / "2.log"])
    assert capsys.readouterr().out == "  2 of 9 packages found, 1 installed\n"
