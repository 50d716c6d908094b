"""A replicated ledger on this machine: run with `python -m examples.cluster run`.

Read in this order: `ledger` (what is replicated), `vsr` (how it is ordered and executed once), `log_store` (where that
is durable), `replica` with `replica_replies` and `replica_events` (the actor around them), `members` (who keeps them
up), `session_client` and `client` (who asks), `network` and `damage` (what goes wrong), `journal` and `evidence` (what
is written down), `verdict` (what must hold afterwards), `terminal` (what people see), `run` (all of it).
Then, for a cluster that stays up: `frames`, `front_door`, `forwarding`, `gateway`, `gateway_keeper`, `cluster_client`,
`live`, `commands` and `client_command`; and what does harm to a cluster at work: `harm`, `door_clients` and `soak`.
"""
