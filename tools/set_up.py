"""set_up: create .venv with the packages of requirements.lock; run by `make setup`, with the standard library alone.

    python3 tools/set_up.py

The lock is complete, so pip resolves nothing (``--no-deps``). pip unpacks on one core: two processes install one part
of the lock each. Bytecode is compiled afterwards, on all cores and without the packages' own tests.
"""

import platform
import re
import subprocess
import sys
import time
from pathlib import Path

VENV = Path(".venv")
PYTHON = str(VENV / "bin" / "python")
LOCK = Path("requirements.lock")
# The packages before this letter take about as long as the others. Packages that share files, such as mlflow and
# mlflow-skinny, lie in one part, so that two processes never write the same file.
SECOND_PART = "p"
INSTALL = [PYTHON, "-m", "pip", "install", "--disable-pip-version-check", "--no-deps"]
NOT_COMPILED = r"/tests?/|/testing/"


def problem_of_machine():
    """What makes the set-up impossible here, in one line; empty if nothing does."""
    if sys.version_info < (3, 11):  # noqa: UP036 (an older Python gets this far)
        version = platform.python_version()
        return f"PYTHON: Python {version} given, 3.11 or newer is needed; for example: make setup PYTHON=python3.12"
    if (sys.platform, platform.machine()) == ("darwin", "x86_64"):
        return "PyTorch is no longer built for Macs with an Intel processor; use Linux or a Mac with Apple silicon"
    return ""


def install_packages():
    """Install the packages of the lock and show progress; exits with pip's message if pip fails."""
    lines = LOCK.read_text().splitlines()
    parts = [[line for line in lines if line < SECOND_PART], [line for line in lines if line >= SECOND_PART]]
    logs = [VENV / f"pip-{number}.log" for number in (1, 2)]
    processes = []
    for part, log in zip(parts, logs, strict=True):
        requirements = log.with_suffix(".txt")
        requirements.write_text("\n".join(part) + "\n")
        with log.open("w") as output:
            command = [*INSTALL, "--no-compile", "-r", str(requirements)]
            processes.append(subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT))
    every, shown = (1.0 if sys.stdout.isatty() else 15.0), 0.0
    try:
        while any(process.poll() is None for process in processes) and not any(map(has_failed, processes)):
            if time.monotonic() - shown >= every:
                shown = time.monotonic()
                show_progress(len(lines), logs)
            time.sleep(0.1)
        show_progress(len(lines), logs)
        for process, log in zip(processes, logs, strict=True):
            if has_failed(process):
                sys.exit(f"{read(log)[-2000:]}\nerror: pip failed (above; its whole output is in {log})")
    finally:
        for process in processes:
            process.terminate()
            process.wait()
    if sys.stdout.isatty():
        print()


def has_failed(process):
    """Whether a process has ended with an error."""
    return process.poll() not in (None, 0)


def read(log):
    """The text of a log that pip may be writing at this moment."""
    return log.read_text(encoding="utf-8", errors="replace")


def show_progress(packages, logs):
    """Print how far pip is, from the output of both processes; on a terminal, in place of the last line."""
    log = "".join(map(read, logs))
    packages -= len(re.findall(r"^Ignoring ", log, re.MULTILINE))  # packages for other systems
    found = len(re.findall(r"^(?:Collecting|Processing|Requirement already satisfied)", log, re.MULTILINE))
    unpacked = min(packages, len(list(VENV.glob("lib/python3*/site-packages/*.dist-info"))))  # pip is not in the lock
    text = f"  {found} of {packages} packages found, {unpacked} installed"
    at_terminal = sys.stdout.isatty()
    print(f"\r{text}" if at_terminal else text, end="" if at_terminal else "\n", flush=True)


def run(*command):
    """Run a command; exits in one line, after the command's own messages, if it fails."""
    if subprocess.run(command, check=False).returncode:
        sys.exit(f"error: failed: {' '.join(command)}")


def main():
    problem = problem_of_machine()
    if problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
    start = time.monotonic()
    print(f"Installing the packages of {LOCK} in {VENV} (7.4 GB with CUDA's libraries)", flush=True)
    if not Path(PYTHON).exists():
        run(sys.executable, "-m", "venv", str(VENV))
    install_packages()
    print("  compiling bytecode", flush=True)
    packages = next(VENV.glob("lib/python3*/site-packages"))
    # Exit code 1 means that some file is not valid Python 3, such as a template.
    subprocess.run([PYTHON, "-m", "compileall", "-qq", "-j", "0", "-x", NOT_COMPILED, str(packages)], check=False)
    run(*INSTALL, "--quiet", "--editable", ".")
    print(f"Done in {time.monotonic() - start:.0f} s. Training will use:", flush=True)
    run(PYTHON, "-m", "pipelines.commands.doctor", "--device")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
