"""Make the file of transfers that ships with the example: `python -m examples.ledger.generate_transfers FILE`.

Guarantees: the same seed gives the same file. Accounts are opened by transfers from equity; then salaries, rents and
purchases follow, with some transfers that must be refused: overdrafts, unknown accounts, an account paying itself.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

from .exit_status import ExitStatus
from .ledger import EQUITY
from .terminal import prepare_streams, show_error
from .transfers import write_transfers

SEED = 20240229
ROWS = 2400

PEOPLE = ["ada", "ben", "cleo", "dan", "eva", "finn", "gina", "hugo", "iris", "jack", "kira", "liam", "mona"]
PEOPLE += ["nils", "olga", "paul", "quinn", "rosa", "sam", "tara", "uwe", "vera", "will", "xenia", "yann", "zoe"]
SHOPS = ["bakery", "bookshop", "cafe", "cinema", "garage", "grocer", "pharmacy", "railway"]
EMPLOYERS = ["city", "factory", "hospital", "school"]
LANDLORD = "landlord"
UNKNOWN = ["nobody", "closed-account", "typo"]


def rows(seed: int = SEED, count: int = ROWS) -> Iterator[tuple[str, str, int]]:
    """The transfers, in order."""
    chance = random.Random(seed)
    openings = [(name, chance.randrange(2_000_000, 6_000_000)) for name in EMPLOYERS]
    openings += [(name, chance.randrange(50_000, 200_000)) for name in (*SHOPS, LANDLORD)]
    openings += [(name, chance.randrange(500, 60_000)) for name in PEOPLE]
    for name, amount in openings:
        yield EQUITY, name, amount
    for _ in range(count - len(openings)):
        yield _transfer(chance)


def _transfer(chance: random.Random) -> tuple[str, str, int]:
    kind = chance.random()
    person, other = chance.sample(PEOPLE, 2)
    if kind < 0.12:
        return chance.choice(EMPLOYERS), person, chance.randrange(8_000, 20_000)
    if kind < 0.20:
        return person, LANDLORD, chance.randrange(4_000, 9_000)
    if kind < 0.70:
        return person, chance.choice(SHOPS), chance.randrange(100, 4_500)
    if kind < 0.90:
        return person, other, chance.randrange(100, 5_000)
    if kind < 0.93:
        return chance.choice(SHOPS), chance.choice(EMPLOYERS), chance.randrange(5_000, 50_000)
    if kind < 0.96:
        return person, other, chance.randrange(500_000, 5_000_000)
    if kind < 0.985:
        return person, chance.choice(UNKNOWN), chance.randrange(100, 5_000)
    return person, person, chance.randrange(100, 5_000)


def main(arguments: list[str]) -> int:
    """Write the file that is named."""
    prepare_streams()
    if len(arguments) != 1:
        show_error("usage: python -m examples.ledger.generate_transfers FILE")
        return ExitStatus.BAD_INPUT
    try:
        write_transfers(Path(arguments[0]), rows())
    except OSError as error:
        show_error(f"{arguments[0]}: found {error.strerror}, expected a file that can be written")
        return ExitStatus.BAD_INPUT
    return ExitStatus.DONE


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
