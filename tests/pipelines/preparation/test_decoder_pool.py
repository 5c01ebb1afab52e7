"""Images are decoded in one process, or on all cores where that pays: the same pixels, the same messages, no torch."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from pipelines.preparation import decoder, decoder_pool
from pipelines.preparation.decoder import Decoder, Piece
from pipelines.preparation.decoder_pool import decode_all
from pipelines.preparation.folders import FileIn
from pipelines.preparation.listing import Box
from pipelines.runtime.cores import Cores
from pipelines.runtime.errors import ExternalError
from pipelines.settings.image_form import ImageForm

FORM, COUNT = ImageForm(5, 4, 3), 150
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def items(tmp_path) -> list:
    """Images as files, contents and broken contents; every third has two pieces."""
    pixels, made, row = np.random.default_rng(0).integers(0, 256, (COUNT, 9, 8, 3), dtype=np.uint8), [], 0
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        boxes = [None] if i % 3 else [None, Box(1, 2, 6, 7)]
        pieces = [Piece(row + j, box) for j, box in enumerate(boxes)]
        row += len(boxes)
        content = FileIn(tmp_path, f"{i}.png")
        made.append((content if i % 2 else b"broken" if i % 20 == 0 else content.read(), pieces))
    return made


@pytest.fixture
def eager(monkeypatch) -> None:
    """Two cores work from the second image on."""
    monkeypatch.setattr(decoder_pool, "MEASURE_S", -1.0)
    monkeypatch.setattr(decoder_pool, "PAYS_S", -1.0)
    monkeypatch.setattr(decoder_pool, "usable_cores", lambda: Cores(2))


def decode(path: Path, items: list) -> tuple[list, bytes]:
    path.write_bytes(bytes(2 * COUNT * 60))
    try:
        found = list(decode_all(Decoder(path, FORM, None), items, COUNT))
    finally:
        decoder.close_files()
    return found, path.read_bytes()


def test_all_cores_give_what_one_gives_in_the_same_order(tmp_path, items, monkeypatch, eager):
    on_all_cores = decode(tmp_path / "all", items)
    monkeypatch.setattr(decoder_pool, "ProcessPoolExecutor", None)  # not started
    monkeypatch.setattr(decoder_pool, "PAYS_S", 1e9)
    assert decode(tmp_path / "one", items) == on_all_cores
    outcomes = [outcome for _, of_image in on_all_cores[0] for outcome in of_image]
    broken = outcomes.count("its content is no image")
    assert len(outcomes) == 200 and broken >= 8 and len(set(outcomes)) == 201 - broken


def test_images_that_are_decoded_already_stay_in_this_process(tmp_path, monkeypatch, eager):
    monkeypatch.setattr(decoder_pool, "ProcessPoolExecutor", None)
    images = [(Image.new("RGB", (5, 5), (i, 0, 0)), [Piece(i, None)]) for i in range(COUNT)]
    assert len(decode(tmp_path / "x", images)[0]) == COUNT


def test_a_worker_imports_no_torch():
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, context, initializer=decoder.start) as pool:
        assert pool.submit(eval, "'pipelines.preparation.decoder' in __import__('sys').modules").result()
        assert not pool.submit(eval, "'torch' in __import__('sys').modules").result()


def test_a_worker_leaves_ctrl_c_to_the_main_process():
    with ProcessPoolExecutor(1, multiprocessing.get_context("forkserver"), initializer=decoder.start) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


def test_a_missing_file_is_named_by_a_worker(tmp_path, items, eager):
    (tmp_path / "99.png").unlink()
    with pytest.raises(ExternalError, match=r"99\.png: cannot be read: No such file"):
        decode(tmp_path / "all", items)


def test_a_worker_that_is_killed_is_an_error_in_one_line(tmp_path, items, eager):
    def killing():
        yield from items[:80]
        servers = [child for child in psutil.Process().children() if "forkserver" in " ".join(child.cmdline())]
        for worker in [worker for server in servers for worker in server.children()]:
            worker.kill()
        yield from items[80:]

    with pytest.raises(ExternalError, match="a process that decodes images was killed"):
        decode(tmp_path / "all", killing())  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("cores", [1, 2])
def test_too_little_memory_is_an_error_in_one_line_and_no_broken_image(tmp_path, items, eager, monkeypatch, cores):
    monkeypatch.setattr(decoder_pool, "usable_cores", lambda: Cores(cores))
    monkeypatch.setattr(decoder, "open_image", fail_for_memory)
    with pytest.raises(ExternalError, match=r"^prepare: too little memory to decode the image; .* \(taskset\)$"):
        decode(tmp_path / "all", items)
    with pytest.raises(ExternalError, match=f"^{tmp_path}: 1\\.png: too little memory"):
        decode(tmp_path / "all", items[1:])


def test_too_little_memory_in_a_process_is_an_error_in_one_line(tmp_path, items, eager):
    huge = (HugeFile(tmp_path, "huge.png"), [Piece(0, None)])
    with pytest.raises(ExternalError, match=f"^{tmp_path}: huge\\.png: too little memory"):
        decode(tmp_path / "all", [*items, huge])


class HugeFile(FileIn):
    def read(self) -> bytes:
        raise MemoryError


def fail_for_memory(_) -> None:
    raise MemoryError


@pytest.mark.parametrize("broken", [False, True])
def test_an_error_of_starting_processes_is_not_called_a_killed_process(tmp_path, items, eager, monkeypatch, broken):
    """A pool that closes itself because a process was killed also raises an OSError."""

    def fail(pool, *_):
        pool._broken = broken
        raise OSError("handle is closed") if broken else OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(ProcessPoolExecutor, "submit", fail)
    with pytest.raises(ExternalError) as caught:
        decode(tmp_path / "all", items)
    assert ("was killed, most likely for lack of memory" in str(caught.value)) == broken
    assert ("cannot start: [Errno 24] Too many open files" in str(caught.value)) != broken
    assert isinstance(caught.value.__cause__, OSError) != broken


SLOW = """
import sys, time
from pathlib import Path
from pipelines.preparation import decoder_pool
from pipelines.preparation.decoder import Decoder, Piece
from pipelines.runtime.cores import Cores
from pipelines.settings.image_form import ImageForm
decoder_pool.MEASURE_S = decoder_pool.PAYS_S = -1.0
decoder_pool.usable_cores = lambda: Cores(2)

def items():
    while True:
        yield b"", [Piece(0, None)]
        time.sleep(0.001)

for number, _ in enumerate(decoder_pool.decode_all(Decoder(Path("x"), ImageForm(4, 4, 3), None), items(), 10**9)):
    if number == 300:
        print("running", flush=True)
"""


def test_workers_end_with_a_main_process_that_is_killed(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    main = subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
    )
    assert main.stdout is not None and main.stdout.readline() == "running\n"
    children = psutil.Process(main.pid).children(recursive=True)
    assert len(children) >= 3
    main.send_signal(signal.SIGKILL)
    main.wait()
    deadline = time.monotonic() + 20
    while any(child.is_running() and child.status() != "zombie" for child in children):
        assert time.monotonic() < deadline, children
        time.sleep(0.1)
