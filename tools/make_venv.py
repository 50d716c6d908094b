"""Make the virtual environment that every Makefile target uses.

The dependencies come from setup.cfg. The folders are linked, as folders, under the name they are installed with,
and a .pth file puts that on the path: a file that is added to the checkout is importable at once, and both Python and
the type checker follow. (An editable install needs an import hook, which type checkers cannot follow, or in its strict
form a re-install for every new file.)
"""

import configparser
import subprocess
import sys
import venv
from pathlib import Path

FOLDERS = ("messages", "storage", "actors", "cluster", "client_replies/__init__.py", "client_replies/__main__.py")
BUILD_REQUIREMENTS = ("build >= 1.2, < 2",)


def requirements(config: configparser.ConfigParser, *extras: str) -> list[str]:
    """Give what the library and these extras need; an extra that names other extras of the library stands for them."""
    name = config["metadata"]["name"]
    found = config["options"]["install_requires"].split("\n")
    for extra in extras:
        for line in config["options.extras_require"][extra].split("\n"):
            if line.startswith(f"{name}["):
                found += requirements(config, *line.removeprefix(f"{name}[").rstrip("]").split(","))
            else:
                found.append(line)
    return sorted({line for line in found if line})


def runs(python: Path) -> bool:
    """Say whether this interpreter and its pip work."""
    return python.exists() and subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0


def install(python: Path, wanted: list[str], log: Path) -> None:
    """Install what is wanted, quietly: the log is shown only when it did not work.

    Nothing is compiled: most modules of what is installed are never imported, and Python compiles those that are.
    """
    options = ("--disable-pip-version-check", "--no-input", "--no-compile")
    command: list[str | Path] = [python, "-m", "pip", "install", *options, *wanted]
    with log.open("w") as output:
        result = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT)
    if result.returncode:
        sys.stderr.write(log.read_text())
        raise SystemExit(f"pip could not install what setup.cfg asks for (the log is in {log})")


def link(directory: Path, python: Path) -> None:
    """Make the folders importable as client_replies.*, by links that stay right when the checkout is moved."""
    package = directory / "import" / "client_replies"
    package.mkdir(parents=True, exist_ok=True)
    for folder in FOLDERS:
        place = package / Path(folder).name
        place.unlink(missing_ok=True)
        place.symlink_to(Path("..", "..", "..", folder))
    answer = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, check=True
    )
    site_packages = Path(answer.stdout.decode().strip())
    (site_packages / "client_replies.pth").write_text("../../../import\n")


def main(directory: Path) -> None:
    """Make or bring up to date the environment in this directory, which lies in the checkout."""
    root = Path(__file__).resolve().parent.parent
    python = directory / "bin" / "python"
    if not runs(python):
        venv.create(directory, with_pip=True, clear=True)
    config = configparser.ConfigParser(interpolation=None)
    config.read(root / "setup.cfg")
    install(python, [*requirements(config, "dev"), *BUILD_REQUIREMENTS], directory / "setup.log")
    link(directory, python)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
