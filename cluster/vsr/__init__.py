"""Viewstamped Replication as a state machine without I/O, clock or chance of its own.

Read in this order: `messages` (what replicas say), `durable` (what a replica keeps), `effects` (what it wants done),
`log`, `execution` (once, in order, with sessions), `core` (what the parts share), then the parts, each of which calls
none after it: `fetch` (another's snapshot), `normal`, `clients`, `repair`, `adoption` (taking over another's log),
`checkpoint`, `view_change`, `recovery`, `sync`, and `replica`, the whole with its inputs. A part writes its own state
only; `core` has the numbers that they share. After Liskov and Cowling, "Viewstamped Replication Revisited" (2012).
"""
