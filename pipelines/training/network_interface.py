"""The network interface of a worker on a cluster. Ray calls this module when it starts a process there."""

import os

import psutil
import ray


def use_cluster_interface() -> None:
    """Set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME, if not set, to the interface with this node's cluster address.

    By default gloo takes the interface that the host's name resolves to. On Debian and Ubuntu that is loopback, and
    workers on other hosts would wait for it until they time out.
    """
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(candidate.address == address for candidate in addresses):
            for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
                os.environ.setdefault(variable, name)
