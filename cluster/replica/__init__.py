"""One replica: read `replica` first, then what it is made of.

`replica_replies` (the component), `network` (messages between members), `observer` (who hears of it), `machine` (what
it takes from the operating system).
"""
