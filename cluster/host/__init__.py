"""What keeps the processes of a cluster up: `members` (replicas), `gateway_keeper` (the gateway)."""
