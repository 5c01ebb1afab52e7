"""The queue of messages between the workers and the driver, a Ray actor.

Workers import this module: it imports neither MLflow nor Ray Train.
"""

from typing import Any

import ray

from pipelines.training.cluster import on_driver_node
from pipelines.training.messages import Message


class MessageQueue:
    """Holds messages until the driver takes them. A worker never waits for the driver or its database."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def put(self, message: Message) -> None:
        self.messages.append(message)

    def drain(self) -> list[Message]:
        messages, self.messages = self.messages, []
        return messages


RemoteMessageQueue = ray.remote(MessageQueue)


class Mailbox:
    """Handle of a :class:`MessageQueue` on the driver's node, so that it outlives every other host. Can be pickled."""

    def __init__(self) -> None:
        self.queue: Any = RemoteMessageQueue.options(num_cpus=0, scheduling_strategy=on_driver_node()).remote()

    def send(self, message: Message) -> None:
        """Send a message without waiting for its arrival."""
        self.queue.put.remote(message)

    def send_and_wait(self, message: Message) -> None:
        """Send a message and return after its arrival."""
        ray.get(self.queue.put.remote(message))

    def drain(self) -> list[Message]:
        """Remove and return all messages that have arrived.

        Raises:
            RayError: the queue's process is lost.
        """
        return ray.get(self.queue.drain.remote())
