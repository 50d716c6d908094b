"""Run the README's quickstart as a user would: the code block after the `<!-- quickstart -->` comment, as it stands."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

MARK = "<!-- quickstart -->"
TIMEOUT_S = 120


def quickstart(readme: str) -> str:
    """Find the marked code block, which is the only Python in the README."""
    blocks: list[str] = re.findall(r"^```python\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    marked: list[str] = re.findall(rf"^{MARK}\n+```python\n(.*?)^```$", readme, flags=re.MULTILINE | re.DOTALL)
    if len(marked) != 1 or blocks != marked:
        raise SystemExit(f"the README has {len(blocks)} python blocks, {len(marked)} after {MARK}; there should be one")
    return marked[0]


def run(python: str, readme: Path) -> str:
    """Run the block with this interpreter in an empty directory, where nothing of the checkout is importable."""
    code = quickstart(readme.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory, "quickstart.py")
        script.write_text(code, encoding="utf-8")
        result = subprocess.run(
            [python, script], cwd=directory, capture_output=True, text=True, timeout=TIMEOUT_S, stdin=subprocess.DEVNULL
        )
    if result.returncode or result.stderr:
        raise SystemExit(f"{python}: exit status {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


if __name__ == "__main__":
    sys.stdout.write(run(sys.executable, Path(sys.argv[1])))
