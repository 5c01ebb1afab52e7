"""A Python that has imported the large packages already, for the stages that tests start.

A short stage, and each worker of Ray, spend most of their processor time on importing torch, MLflow and the like. The
program ``python`` of :func:`folder_of_warm_python` starts a module of this project, the program of Ray or a worker of
Ray in a fork of a process that has imported those packages, and nothing of this project. It starts the real Python for
everything else, and wherever the environment or the cores differ from those of that process.

A fork is no child of the process that asked for it, but ends with it. It does not receive its signals.

This hides a missing import of a submodule, and anything that packages print on import. Therefore the demo of the
tests uses the real Python.
"""

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import os
import resource
import runpy
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

PACKAGES = (
    "torch", "torchvision.transforms.v2", "mlflow.pyfunc", "mlflow.store.tracking.sqlalchemy_store",
    "mlflow.store.model_registry.sqlalchemy_store", "matplotlib.figure", "scipy.stats", "sklearn.metrics",
    "aiohttp", "jsonschema", "pyarrow.dataset",  # what Ray imports; Ray itself reads the environment on import
)  # fmt: skip
# Variables that are read when Python starts or when a package is imported, and that no package sets itself on import.
READ_ONCE = (
    "COVERAGE_", "CUDA_", "GOMP_", "LANG", "LC_", "LD_", "MALLOC_", "MKL_", "MPL", "OMP_", "OPENBLAS_",
    "PYTHON", "TORCH_", "TZ",
)  # fmt: skip
LIMITS = [value for name, value in vars(resource).items() if name.startswith("RLIMIT_")]
ENTERED = ("net", "mnt")  # namespaces that a fork enters, if its user is root
MODULES = ("pipelines.", "ray.scripts.scripts")
WORKERS_OF_RAY = ("/ray/_private/workers/setup_worker.py", "/ray/_private/workers/default_worker.py")
REFUSED = b"refused"
PYTHON, EXECVP = sys.executable, os.execvp
SERVERS: list[subprocess.Popen] = []  # of this process; a server ends when its standard input is closed


@functools.cache
def folder_of_warm_python() -> Path | None:
    """A folder with the program ``python``, for PATH; None where it cannot be, or if the variable COLD is set.

    The folder and the process that is forked are gone when this process ends.
    """
    if sys.platform != "linux" or "COLD" in os.environ:
        return None
    folder = Path(tempfile.mkdtemp(prefix="python-"))
    program, server = folder / "python", folder / "server"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "{__file__}" "{server}" "$@"\n')
    program.chmod(0o755)
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(str(server))
        except OSError:  # the folder for temporary files has too long a path for a socket
            shutil.rmtree(folder)
            return None
        listener.listen()
        SERVERS.append(
            subprocess.Popen(
                [sys.executable, __file__, server, str(listener.fileno())], stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()], env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )
        )  # fmt: skip
    return folder


def surroundings() -> list:
    """What a fork takes over from the process that it is forked from, and cannot change."""
    read_once = {name: value for name, value in os.environ.items() if name.startswith(READ_ONCE)}
    kept = ("pid", "user") if os.getuid() == 0 else ("pid", "user", *ENTERED)
    namespaces = [str(Path(f"/proc/self/ns/{name}").readlink()) for name in kept]
    return [read_once, sorted(os.sched_getaffinity(0)), os.getpriority(os.PRIO_PROCESS, 0), os.getuid(), namespaces]


def ask(server: str, arguments: list[str]) -> int | None:
    """Have the server run a module. Returns its status as of :func:`os.waitpid`; None if the server refuses."""
    request = {
        "surroundings": surroundings(), "environment": dict(os.environ), "folder": str(Path.cwd()),
        "limits": [resource.getrlimit(limit) for limit in LIMITS], "arguments": arguments,
        "namespaces": [f"/proc/{os.getpid()}/ns/{name}" for name in ENTERED],
        "interruptible": signal.getsignal(signal.SIGINT) != signal.SIG_IGN,
    }  # fmt: skip
    message = json.dumps(request).encode()
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(server)
        socket.send_fds(connection, [len(message).to_bytes(8, "little")], [0, 1, 2])
        connection.sendall(message)
        answer = connection.recv(8)
    if not answer:
        sys.exit(f"{' '.join(arguments)}: the fork was lost")
    return None if answer == REFUSED else int(answer)


def receive(connection: socket.socket) -> tuple[dict, list[int]]:
    """Receive a request, and the standard input, output and error of the process that asks."""
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    with connection.makefile("rb") as stream:
        return json.loads(stream.read(int.from_bytes(length, "little"))), files


def import_packages() -> bool:
    """Import the packages; returns whether a fork of this process is then like a new process."""
    with tempfile.TemporaryFile() as printed:
        kept = [os.dup(1), os.dup(2)]
        for number in (1, 2):
            os.dup2(printed.fileno(), number)
        try:
            for name in PACKAGES:
                importlib.import_module(name)
        finally:
            for number, copy in enumerate(kept, 1):
                os.dup2(copy, number)
                os.close(copy)
        gc.collect()
        gc.freeze()  # the collector of a fork would copy all pages
        return not printed.tell() and threading.active_count() == 1


def serve(path: str, listening: int) -> list[str] | None:
    """Fork for each request until the tests end. Returns None, and in a fork the arguments of Python."""
    own, usable = json.loads(json.dumps(surroundings())), None
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a fork that waits for a module
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C ends the tests, and then this process
    with socket.socket(fileno=listening) as listener:
        while True:
            if sys.stdin in select.select([sys.stdin, listener], [], [])[0]:
                shutil.rmtree(Path(path).parent)
                return None
            connection, _ = listener.accept()
            with connection:
                request, files = receive(connection)
                if usable is None:
                    usable = import_packages()
                if not usable or request["surroundings"] != own:
                    connection.sendall(REFUSED)
                elif os.fork() == 0:
                    listener.close()
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    if child := os.fork():
                        wait_for(child, connection)
                    else:
                        take_over(request, files)
                        sys.executable = str(Path(path).with_name("python"))  # for the processes that it starts
                        return request["arguments"]
                for file in files:
                    os.close(file)


def wait_for(child: int, connection: socket.socket) -> NoReturn:
    """Send the status of a process when it ends. It is killed if the process that asked ends before it."""
    process = os.pidfd_open(child)
    ended, _, _ = select.select([process, connection], [], [])
    if process not in ended:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    with contextlib.suppress(OSError):
        connection.sendall(str(status).encode())
    os._exit(0)


def take_over(request: dict, files: list[int]) -> None:
    """Make this process, a fork, like the one that asked."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    for namespace in request["namespaces"]:
        enter(Path(namespace))
    if request["interruptible"]:  # a shell starts background programs with SIGINT ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for limit, values in zip(LIMITS, request["limits"], strict=True):
        if resource.getrlimit(limit) != tuple(values):
            resource.setrlimit(limit, values)
    sys.path[0] = request["folder"]


def enter(namespace: Path) -> None:
    """Enter a namespace of another process, unless this process is in it."""
    if namespace.readlink() == Path("/proc/self/ns", namespace.name).readlink():
        return
    with namespace.open() as file:
        if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), 0):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")


def run(arguments: list[str]) -> None:
    """Run ``-m module …`` or ``script …``, as Python does with these arguments."""
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
        os.execvp = run_here
        runpy.run_path(arguments[0], run_name="__main__")


@contextlib.contextmanager
def leaving_without_cleaning_up() -> Iterator[None]:
    """After the block, skip what Python does last: it would free each object, and so copy the pages of all packages."""
    code: object = None

    def leave() -> None:  # is registered before packages are imported, so that it runs after their functions
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        if code is KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(code if isinstance(code, int) else int(code is not None))

    atexit.register(leave)
    try:
        yield
    except SystemExit as error:
        code = error.code
        raise
    except KeyboardInterrupt:
        code = KeyboardInterrupt
        raise
    except BaseException:
        code = 1
        raise


def run_here(file: str, args: list[str]) -> None:
    """In place of :func:`os.execvp`, with which the script that sets up a worker of Ray starts the worker's script."""
    os.execvp = EXECVP
    program, *others = shlex.split(args[-1])[1:]
    if args[:2] != ["bash", "-c"] or program not in (PYTHON, sys.executable):
        os.execvp(file, args)
    run(others)
    sys.exit()


def main() -> None:
    """Run Python with the arguments after the address of a server; or serve, if the only other one is a listener."""
    server, *arguments = sys.argv[1:]
    if len(arguments) == 1 and arguments[0].isdecimal():
        with leaving_without_cleaning_up():
            if forked := serve(server, int(arguments[0])):
                run(forked)
        return
    first, second = [*arguments, "", ""][:2]
    module = first == "-m" and second.startswith(MODULES)
    status = ask(server, arguments) if module or first.endswith(WORKERS_OF_RAY) else None
    if status is None:
        os.execv(PYTHON, [PYTHON, *arguments])
    if os.WIFSIGNALED(status):
        with contextlib.suppress(OSError):  # SIGKILL has no handler
            signal.signal(os.WTERMSIG(status), signal.SIG_DFL)
        os.kill(os.getpid(), os.WTERMSIG(status))
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
