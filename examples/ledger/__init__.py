"""A replicated ledger on this machine, and the drill around it: run with `python -m examples.ledger run`.

The service: `ledger` (what is replicated), `ledger_machine` (as a state machine), `ledger_replica` (the replica of it),
`transfers` (its input). The drill: `clients` (who asks), `faulty_network`, `faulty_port`, `hurt` and `damage` (what
goes wrong), `journal`, `replica_events` and `evidence` (what is written down), `verdict` (what must hold afterwards),
`report`, `terminal` (what people see), `run` (all of it); `harm` and `soak` (harm to a cluster at work). A cluster that
stays up: `live`, `cluster_directory`, `control_socket`, `fault_keeper`, `commands`, `client_command`, `failures` (what
an error means).
"""
