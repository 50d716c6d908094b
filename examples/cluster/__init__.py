"""A replicated ledger of three replicas on this machine: run with `python -m examples.cluster run`.

Read in this order: `ledger` (what is replicated), `replication` (how it is ordered), `service` (how it is executed
once), `replica` (the actor around them), `session_client` and `client` (who asks), `network` and `damage` (what goes
wrong), `verdict` (what must hold afterwards), `run` (all of it).
"""
