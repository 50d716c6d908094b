"""A counter on three replicas: it executes each request once, and answers a repeated one with the original reply.

python -m examples.counter                  try it: count, kill the primary, count on
python -m examples.counter DIRECTORY        keep it up there until Ctrl-C; a restart resumes
"""

import sys
import tempfile

from client_replies.cluster import Command, StateMachine, running_service, serve

ADD = 16  # the only operation


class Counter(StateMachine):
    """A sum."""

    def __init__(self) -> None:
        self.total = 0

    def execute(self, command: Command) -> bytes:
        """Add what the body says, if it is a number; answer the sum."""
        if command.operation == ADD and command.body.isdigit():
            self.total += int(command.body)
        return str(self.total).encode()

    def snapshot(self) -> bytes:
        """The sum."""
        return str(self.total).encode()

    def restore(self, data: bytes) -> None:
        """Go on from this sum."""
        self.total = int(data or b"0")


def count(directory: str) -> list[str]:
    """Count a little, and return the answers."""
    with running_service(Counter, directory) as service, service.client() as client, client.session() as session:
        answers = [session.request(ADD, number, timeout=30.0) for number in (b"40", b"2")]
        service.kill(0)  # the primary of the first view
        answers.append(session.repeat(timeout=60.0))  # the next primary gives the original reply
        answers.append(session.request(ADD, b"8", timeout=60.0))
        return [answer.body.decode() for answer in answers]


if __name__ == "__main__":
    if len(sys.argv) > 1:
        serve(Counter, sys.argv[1])
    else:
        with tempfile.TemporaryDirectory() as place:
            print(*count(place))
