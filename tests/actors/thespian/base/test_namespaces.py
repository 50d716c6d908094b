"""Two hosts that are really two: network namespaces with a cable between them that can be pulled. It takes root."""

import base64
import os
import pickle
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest

from .other_host import ROOT, other_host

KEY = secrets.token_bytes(32)
NAMES = ("replies-test-a", "replies-test-b")
ADDRESSES = ("10.231.7.1", "10.231.7.2")


def ip(*arguments: str) -> None:
    """Run the ip command."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def inside(name: str) -> list[str]:
    """What to put before a command that is to run there."""
    return ["ip", "netns", "exec", name]


@pytest.fixture
def cable() -> Iterator[None]:
    """Two namespaces, joined by a pair of virtual interfaces, and nothing else."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the ip command")
    try:
        for name in NAMES:
            ip("netns", "add", name)
        ip("link", "add", "eth-a", "netns", NAMES[0], "type", "veth", "peer", "name", "eth-b", "netns", NAMES[1])
        for name, address, end in zip(NAMES, ADDRESSES, ("eth-a", "eth-b"), strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
            ip("-n", name, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        _remove()
        pytest.skip(f"network namespaces are not allowed here: {error.stderr!r}")
    yield
    _remove()


def _remove() -> None:
    for name in NAMES:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True)


DRIVER = """
import base64, pickle, sys, time
from client_replies.actors.thespian.system import running_system
from tests.actors.thespian.base.actors import Echo, Flooder
echo, flooder = pickle.loads(base64.b64decode(sys.argv[1]))
with running_system(addresses=[sys.argv[2]], key=bytes.fromhex(sys.argv[3])) as system:
    here, sender = system.createActor(Echo), system.createActor(Flooder)
    system.tell(sender, ("flood from", flooder, 0, 10))
    print(system.ask(echo, "over the cable", 20), flush=True)
    sys.stdin.readline()  # the cable has been pulled
    system.tell(sender, ("flood from", flooder, 10, 40))
    system.ask(sender, "counted", 20)
    begun = time.monotonic()
    for _ in range(20):
        assert system.ask(here, "at home", 20) == "at home"
    print(time.monotonic() - begun, flush=True)
    sys.stdin.readline()  # and is back
    until = time.monotonic() + 30
    while (counted := system.ask(flooder, "counted", 30)) != (40, 0) and time.monotonic() < until:
        time.sleep(0.05)
    print(counted, flush=True)
"""


def told(script: "subprocess.Popen[str]") -> str:
    """The next line that the script prints."""
    assert script.stdout is not None
    return script.stdout.readline().strip()


def tell(script: "subprocess.Popen[str]") -> None:
    """Let the script go on."""
    assert script.stdin is not None
    script.stdin.write("\n")
    script.stdin.flush()


def test_a_pulled_cable_holds_up_nobody_at_home_and_loses_nothing(cable: None) -> None:
    """Messages to the other host wait; those of this host take as long as ever; when the cable is back all arrive."""
    with other_host(ADDRESSES[1], KEY, *inside(NAMES[1])) as actors:
        arguments = (base64.b64encode(pickle.dumps(actors)).decode(), ADDRESSES[0], KEY.hex())
        script = subprocess.Popen(
            [*inside(NAMES[0]), sys.executable, "-c", DRIVER, *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert told(script) == "over the cable"
            ip("-n", NAMES[0], "link", "set", "eth-a", "down")
            tell(script)
            assert float(told(script)) < 5.0
            ip("-n", NAMES[0], "link", "set", "eth-a", "up")
            tell(script)
            assert told(script) == "(40, 0)"
        finally:
            script.communicate(timeout=60)
    assert script.returncode == 0
