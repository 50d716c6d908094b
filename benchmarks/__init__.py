"""Measurements of the component against the disk's own limit and against what an actor user would otherwise write.

`python -m benchmarks` runs the rows, each with its contestants in turn; `python -m benchmarks.measure` runs one
contestant once, which is what a profiler wants.
"""
