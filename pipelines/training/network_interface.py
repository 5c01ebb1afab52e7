"""The network interface over which a worker on a cluster talks to the others; Ray calls this as each of its processes
starts there."""

import os

import psutil
import ray


def use_the_clusters() -> None:
    """Let gloo use the interface that has this node's address in the cluster, unless GLOO_SOCKET_IFNAME says otherwise.

    By itself it takes the one that the host's name resolves to, which on Debian and Ubuntu is loopback: the workers of
    other hosts would then wait for it until they give up.
    """
    address = ray.util.get_node_ip_address()
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
