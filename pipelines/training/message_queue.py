"""The queue of messages between the workers and the driver; its process imports no other module of the project."""


class MessageQueue:
    """Holds pickled messages until the driver takes them. A worker never waits for the driver or its database."""

    def __init__(self) -> None:
        self.messages: list[bytes] = []

    def put(self, message: bytes) -> None:
        self.messages.append(message)

    def drain(self) -> list[bytes]:
        messages, self.messages = self.messages, []
        return messages
