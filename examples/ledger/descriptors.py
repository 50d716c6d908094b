"""What a script that starts actors needs of its descriptors: the three standard ones are open, and there are enough.

What opens next gets the lowest free number: a data file or a socket with the number of standard error would be written
to by whoever reports an error there.

Guarantees: after `prepare_descriptors` each of the three is what it was, or the null device, and the limit on open
files suffices for every process of a cluster. Owns: the soft limit, which it raises if it may.
"""

from __future__ import annotations

import os
import resource

DESCRIPTORS_MIN = 128  # for each process; with 40, three replicas just start


class DescriptorsTooFew(OSError):
    """The limit on open files is too low."""


def prepare_descriptors() -> None:
    """Open what is closed of the three, and raise the limit if that is needed. Raises `DescriptorsTooFew`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY not in (soft, hard) and hard < DESCRIPTORS_MIN:
        expected = f"at least {DESCRIPTORS_MIN}. Raise it, for example: ulimit -n 1024"
        raise DescriptorsTooFew(f"found a limit of {hard} open files, expected {expected}")
    if soft != resource.RLIM_INFINITY and soft < DESCRIPTORS_MIN:
        resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS_MIN, hard))
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free: this one.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
