"""Fuzzers for what reads the bytes of strangers: run with `python -m tests.fuzz --minutes N`."""
