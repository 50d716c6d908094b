"""Run the README's quickstart on the installed wheel, not the checkout, with the oldest and the newest Python here.

Usage: wheel_check.py WHEEL README
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.run_readme_example import run

OLDEST = (3, 11)
PROBE = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
Version = tuple[int, int]


def candidates() -> list[Path]:
    """Give every interpreter on the path and among those that pyenv installed."""
    places = [Path(place) for place in os.environ.get("PATH", "").split(os.pathsep) if place]
    places += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/*/bin"))
    return [path for place in places if place.is_dir() for path in place.iterdir() if is_python(path.name)]


def is_python(name: str) -> bool:
    """Say whether a file name is that of an interpreter."""
    return re.fullmatch(r"python3(\.\d+)?", name) is not None


def version(python: Path) -> Version | None:
    """Ask an interpreter for its version; a shim with nothing behind it has none."""
    try:
        result = subprocess.run([python, "-c", PROBE], capture_output=True, text=True, timeout=30)
    except OSError:
        return None
    if result.returncode:
        return None
    major, minor = result.stdout.split()
    return int(major), int(minor)


def supported() -> dict[Version, Path]:
    """Give one working interpreter for each supported version here."""
    found: dict[Version, Path] = {}
    for python in candidates():
        number = version(python)
        if number is not None and number >= OLDEST:
            found.setdefault(number, python)
    return found


def check(python: Path, wheel: Path, readme: Path) -> str:
    """Install the wheel in a new environment of this interpreter and run the quickstart there."""
    # The environment we run in must not reach into the new one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([python, "-m", "venv", directory], check=True, env=environment)
        inner = Path(directory, "bin", "python")
        command: list[str | Path] = [inner, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", wheel]
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        if result.returncode:
            raise SystemExit(f"{python}: pip could not install {wheel.name}\n{result.stdout}{result.stderr}")
        return run(str(inner), readme)


def main(wheel: Path, readme: Path) -> None:
    """Check the oldest and the newest."""
    found = supported()
    if not found:
        raise SystemExit(f"no Python {OLDEST[0]}.{OLDEST[1]} or later was found")
    for number in sorted({min(found), max(found)}):
        output = check(found[number], wheel.resolve(), readme.resolve())
        print(f"Python {number[0]}.{number[1]} ({found[number]}): the README's quickstart runs on the installed wheel")
        print(output, end="")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
