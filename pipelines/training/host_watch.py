"""How lost and new hosts of the connected cluster change a training."""

import ray

from pipelines.training.cluster import nodes_alive
from pipelines.training.worker_plan import WorkerPlan


class HostWatch:
    """Watches which hosts leave and join the connected cluster."""

    def __init__(self, plan: WorkerPlan):
        self.plan = plan
        self.hosts = _hosts_alive()

    def changes(self) -> list[str]:
        """One line for each host that has left or joined since the last call, with the consequence for training."""
        before, self.hosts = self.hosts, _hosts_alive()
        if before == self.hosts:
            return []
        room, least = self.plan.room(nodes_alive()), self.plan.least
        if room < least:
            consequence = f"training waits for a replacement: it needs {least} worker(s), and there is room for {room}"
        else:
            consequence = f"training continues: there is room for {room} of at most {self.plan.most} worker(s)"
        lost = [f"host {address} is lost; {consequence}" for address, _ in sorted(before - self.hosts)]
        joined = [f"host {address} has joined; {consequence}" for address, _ in sorted(self.hosts - before)]
        return lost + joined


def _hosts_alive() -> set[tuple[str, str]]:
    """Address and node id of each host: a host that returns has a new id."""
    return {(node["NodeManagerAddress"], node["NodeID"]) for node in ray.nodes() if node["Alive"]}
