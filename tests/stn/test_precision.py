"""Precision: set by hand, or bf16 where the hardware has it and a training step is faster by it."""

from types import SimpleNamespace

import pytest
import torch

from stn import precision
from stn.classifiers import build_network
from stn.precision import WORTH_IT, choose_precision, measure_speedup
from stn.settings import NetworkSettings, TransformerSettings

CPU = torch.device("cpu")


def test_precision_is_set_by_hand_or_chosen_for_the_hardware(monkeypatch):
    assert choose_precision("fp32", CPU) == (torch.float32, "set by hand")
    assert choose_precision("bf16", CPU) == (torch.bfloat16, "set by hand")
    for capabilities, dtype in [
        ({"amx_bf16": True}, torch.bfloat16),
        ({"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ({"avx2": True}, torch.float32),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda capabilities=capabilities: capabilities)
        assert choose_precision("auto", CPU)[0] == dtype
        assert choose_precision("fp32", CPU)[0] == torch.float32
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    for capability, dtype in [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, capability=capability: capability)
        chosen, reason = choose_precision("auto", cuda)
        assert chosen == dtype
        assert "Some GPU" in reason


def set_bf16(monkeypatch, has: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has})


@pytest.mark.parametrize(("speedup", "dtype"), [(WORTH_IT, torch.bfloat16), (WORTH_IT - 0.01, torch.float32)])
def test_auto_chooses_bf16_where_a_step_is_faster(speedup, dtype, monkeypatch):
    set_bf16(monkeypatch, has=True)
    chosen, reason = choose_precision("auto", CPU, lambda: speedup)
    assert chosen == dtype and f"{speedup:.2f} times" in reason


@pytest.mark.parametrize(("setting", "has"), [("fp32", True), ("bf16", True), ("auto", False)])
def test_nothing_is_measured_where_nothing_is_to_be_chosen(setting, has, monkeypatch):
    set_bf16(monkeypatch, has)
    choose_precision(setting, CPU, lambda: pytest.fail("measured"))


def test_the_measured_speedup_is_the_ratio_of_the_times_of_a_step(monkeypatch):
    """A network that takes three times as long in fp32."""
    network, clock = build_network(NetworkSettings((1, 28, 28), 3, TransformerSettings())), iter(range(10**9))
    now = [0.0]

    def take_time(*_) -> None:
        now[0] += (1.0 if torch.is_autocast_enabled("cpu") else 3.0) + next(clock) % 4  # the fastest step counts

    network.register_forward_pre_hook(take_time)
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0]))
    monkeypatch.setattr(precision, "LONGEST_S", 1000.0)
    images, labels = torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 0])
    state = torch.get_rng_state()
    assert measure_speedup(lambda: network, images, labels) == 1.5
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("can_be_captured", "expected"), [(True, 3.0), (False, 2.0)])
def test_captured_passes_are_timed_where_that_is_possible(can_be_captured, expected, monkeypatch):
    """Eager passes take 8 and 4 seconds, replayed ones 3 and 1."""
    now = [0.0]

    def capture(step):
        if not can_be_captured and len(captured) == 1:
            raise RuntimeError("operation not permitted when stream is capturing")
        captured.append(step.args[3])
        dtype = captured[-1]
        return lambda: now.__setitem__(0, now[0] + (3.0 if dtype == torch.float32 else 1.0))

    def take_time(*_) -> None:
        now[0] += 4.0 if torch.is_autocast_enabled("cpu") else 8.0

    captured = []
    network = build_network(NetworkSettings((1, 28, 28), 3))
    network.register_forward_pre_hook(take_time)
    monkeypatch.setattr(precision, "capture_function", capture)
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: now[0], process_time=lambda: now[0]))
    images, labels = torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 0])
    assert measure_speedup(lambda: network, images, labels, captured=True) == expected
    assert measure_speedup(lambda: network, images, labels) == 2.0, "not asked for"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a CUDA graph is captured")
def test_captured_passes_of_a_gpu_are_timed():
    settings, cuda = NetworkSettings((3, 32, 32), 10, TransformerSettings(), dropout=0.1), torch.device("cuda")
    images, labels = torch.rand(1024, 3, 32, 32, device=cuda), torch.arange(1024, device=cuda) % 10
    state = torch.cuda.get_rng_state()
    factors = [measure_speedup(lambda: build_network(settings), images, labels, captured=True) for _ in range(2)]
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert factors[0] == pytest.approx(factors[1], rel=0.5) and factors[0] > 0.3


def test_a_slow_network_is_measured_once(monkeypatch):
    monkeypatch.setattr(precision, "LONGEST_S", 0.0)
    steps = []
    network = build_network(NetworkSettings((1, 28, 28), 3))
    network.register_forward_pre_hook(lambda *_: steps.append(torch.is_autocast_enabled("cpu")))
    measure_speedup(lambda: network, torch.rand(4, 1, 28, 28), torch.tensor([0, 1, 2, 0]))
    assert steps == [False, True] * 2, "the first step of each is not timed"
