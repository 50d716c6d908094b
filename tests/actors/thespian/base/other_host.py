"""A system of another host, for the tests: a script of its own, at a loopback address that it alone has.

    python -m tests.actors.thespian.base.other_host ADDRESS KEY-IN-HEX

Prints the addresses of an Echo and a Flooder, then waits until its standard input is closed.
"""

import base64
import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thespian.actors import ActorAddress

from client_replies.actors.thespian.system import running_system

from .actors import Echo, Flooder

ROOT = Path(__file__).resolve().parents[4]


@contextmanager
def other_host(address: str, key: bytes, *before: str) -> Iterator[tuple[ActorAddress, ActorAddress]]:
    """Start the script, and give the addresses of its Echo and its Flooder."""
    command = [*before, sys.executable, "-m", "tests.actors.thespian.base.other_host", address, key.hex()]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        assert script.stdin is not None
        try:
            line = script.stdout.readline()
            assert line, "the other host did not start"
            yield pickle.loads(base64.b64decode(line))
        finally:
            script.stdin.close()
            script.wait(30)


def main(address: str, key: str) -> None:
    """Run the script."""
    with running_system(addresses=[address], key=bytes.fromhex(key)) as system:
        actors = system.createActor(Echo), system.createActor(Flooder)
        sys.stdout.write(base64.b64encode(pickle.dumps(actors)).decode() + "\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
