"""One replica: an actor that is always in one state, which decides what may be asked of it.

Read in this order: `lifecycle` (the states, what they have in common, and the last one), `replica` (the door, and what
a service says in a subclass), then the states: `starting` (waiting, opening, joining), `taking_part` with `finishing`
(its orderly end). What a replica is made of: `replica_replies` (the component), `network` (messages between members),
`observer` (who hears of it), `machine` (what it takes from the operating system).
"""
