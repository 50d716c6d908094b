"""The seeds that CI runs on the whole cluster: see `tests.simulation.sample`."""

from __future__ import annotations

SAMPLE = (1, 2, 3, 33, 43, 55, 101, 107, 109, 140, 141)
# The planted bugs that take few seeds, and the first that finds each. README.md has the table of all.
SEEDS_OF_PLANTED = {
    "the primary commits without a quorum": 1,
    "a backup acknowledges before the entry is durable": 1,
    "an entry is executed before it is committed": 1,
    "a request is not judged by the pipeline": 5,
    "the longest log is taken instead of the latest view's": 9,
    "a new primary does not prepare again what may be committed": 5,
    "a view is left before that is durable": 1,
    "the view of the log is forgotten": 1,
    "a primary that restarts goes on in its view": 7,
    "a replica that lost its disk votes at once": 1,
    "a write counts as durable when it is begun": 1,
    "the stored reply has the replica's own view in it": 1,
    "the log is trimmed before the component's checkpoint is durable": 43,
    "the log keeps nothing of the checkpoint before the last": 13,
    "it counts as finished before its replies are durable": 1,
    "nobody waits for what the slots are without": 1,
    "it hears of a view only from replicas that it sends requests to": 3,
    "a view is followed although it has not begun": 1,
    "a repeated request is answered with another's reply": 1,
    "a request is forgotten when a view begins": 1,
    "a request is forgotten when its replica starts again": 1,
    "a request that its client repeats elsewhere stays at the first connection": 1,
    "the reply to an earlier request is taken for that to the latest": 2,
    "a refusal of an earlier view is believed": 33,
    "it stays with a gateway that does not answer": 16,
}
