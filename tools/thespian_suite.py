"""Run Thespian's own tests on this project's system base: python tools/thespian_suite.py CHECKOUT [PYTEST ARGUMENT ...]

CHECKOUT is a checkout of Thespian at the release that is installed here; nothing of it is kept. Its tests for
multiprocTCPBase run, with this project's base in the place of that name. What does not pass, and why, is in
docs/thespian.md. As a pytest plugin (`-p thespian_suite`) this module does the exchange.
"""

import os
import subprocess
import sys
from pathlib import Path

TOOLS = Path(__file__).resolve().parent
PLUGIN = "thespian_suite"
REPLACED = "multiprocTCPBase"
# Admin Routing and Outbound Only are for hosts that cannot be connected to; this base needs that they can.
SELECTED = f"{REPLACED} and not AdminRouting"


def pytest_configure() -> None:
    """Let `ActorSystem("multiprocTCPBase")` find this project's base."""
    from client_replies.actors.thespian.base import unix_base

    unix_base.ActorSystemBase.system_name = REPLACED
    sys.modules[f"thespian.system.{REPLACED}"] = unix_base


def main(arguments: list[str]) -> int:
    """Run the tests; the exit status is pytest's."""
    if not arguments or not Path(arguments[0], "thespian", "test").is_dir():
        print(f"usage: {__doc__}", file=sys.stderr)
        return 2
    checkout, *others = arguments
    command = [sys.executable, "-m", "pytest", "-p", PLUGIN, "-q", "-k", SELECTED, "thespian", *others]
    path = os.pathsep.join([str(TOOLS), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(command, cwd=checkout, env={**os.environ, "PYTHONPATH": path}).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
