"""Sends messages from the workers to the driver, through a Ray actor.

Workers import this module: it imports neither MLflow nor Ray Train.
"""

import pickle
from typing import Any

import ray

from pipelines.training.cluster import on_driver_node
from pipelines.training.message_queue import MessageQueue
from pipelines.training.messages import Message

RemoteMessageQueue = ray.remote(MessageQueue)


class Mailbox:
    """Handle of a :class:`MessageQueue` on the driver's node, so that it outlives every other host. Can be pickled."""

    def __init__(self) -> None:
        self.queue: Any = RemoteMessageQueue.options(num_cpus=0, scheduling_strategy=on_driver_node()).remote()

    def send(self, message: Message) -> None:
        """Send a message without waiting for its arrival."""
        self.queue.put.remote(pickle.dumps(message))

    def send_and_wait(self, message: Message) -> None:
        """Send a message and return after its arrival."""
        ray.get(self.queue.put.remote(pickle.dumps(message)))

    def drain(self) -> list[Message]:
        """Remove and return all messages that have arrived.

        Raises:
            RayError: the queue's process is lost.
        """
        return [pickle.loads(message) for message in ray.get(self.queue.drain.remote())]
