"""Viewstamped Replication as a state machine without I/O, clock or chance of its own.

Read in this order: `messages` (what replicas say), `durable` (what a replica keeps), `effects` (what it wants done),
`log`, `execution` (once, in order, with sessions), `core` (what the parts share), then the parts: `normal`, `clients`,
`view_change`, `adoption` (taking over another's log), `repair`, `checkpoint`, `sync`, `recovery`, and `replica`, the
whole with its inputs. After Liskov and Cowling, "Viewstamped Replication Revisited" (2012).
"""
