"""The seeds that CI runs on the whole cluster: see `tests.simulation.sample`."""

from __future__ import annotations

SAMPLE = (1, 2, 3)
# Each planted bug that is found, and the first seed that finds it. README.md names those that are not found yet.
SEEDS_OF_PLANTED = {
    "the primary commits without a quorum": 1,
    "a backup acknowledges before the entry is durable": 1,
    "an entry is executed before it is committed": 1,
    "who has no vote is counted": 117,
    "a request is not judged by the pipeline": 1,
    "a new primary judges by a table that is behind, and does not know what is on its way": 56,
    "the longest log is taken instead of the latest view's": 5,
    "a new primary does not prepare again what may be committed": 1,
    "a view is left before that is durable": 1,
    "the view of the log is forgotten": 1,
    "a primary that restarts goes on in its view": 27,
    "a write counts as durable when it is begun": 1,
    "the stored reply has the replica's own view in it": 1,
    "a reply that cannot be read now is called lost": 147,
    "the component hears of an op before its reply": 86,
    "the log is trimmed before the component's checkpoint is durable": 6,
    "it counts as finished before its replies are durable": 1,
    "nobody waits for what the slots are without": 1,
}
