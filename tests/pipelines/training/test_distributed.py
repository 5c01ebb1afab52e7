"""Settings of Ray Train and DistributedDataParallel, which differ between CPUs and GPUs."""

import os
import subprocess
import sys

import pytest
import torch

from pipelines.training import distributed, network_interface, ranks
from pipelines.training.worker_plan import WorkerPlan
from stn.classifiers import Network


@pytest.mark.parametrize(("gpu", "placement", "timeout"), [(True, "PACK", 120), (False, "SPREAD", 1800)])
def test_gpus_are_close_together_and_do_not_wait_long_for_a_lost_one(gpu, placement, timeout):
    plan = WorkerPlan(2, 4, gpu, 2, 2)
    scaling = distributed._scaling_config(plan)
    assert scaling.placement_strategy == placement and scaling.use_gpu == gpu
    assert distributed._torch_config(plan).timeout_s == timeout


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_gradients_on_gpus_are_views_of_the_buffers_that_are_exchanged(device, monkeypatch):
    given = {}
    monkeypatch.setattr(ranks, "DistributedDataParallel", lambda network, **options: given.update(options))
    ranks.distribute(Network(torch.nn.Linear(2, 2)), torch.device(device))
    assert given == {"broadcast_buffers": False, "gradient_as_bucket_view": device == "cuda"}


def test_nccl_uses_the_interface_of_the_cluster_and_says_why_it_fails(monkeypatch):
    names = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network_interface.ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    network_interface.use_cluster_interface()
    gloo, nccl = (os.environ.get(name) for name in names)
    assert gloo and nccl == gloo
    command = [sys.executable, "-c", "import os, pipelines.training; print(os.environ['NCCL_DEBUG'])"]
    without = {name: value for name, value in os.environ.items() if name != "NCCL_DEBUG"}
    assert subprocess.run(command, env=without, check=True, capture_output=True, text=True).stdout == "WARN\n"
    for name in names:
        monkeypatch.delenv(name)
