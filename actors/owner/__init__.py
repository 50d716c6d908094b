"""The owner's side: `replies_port` (what a replica uses), `port_events` (what it is told), `lease_stock` (the buffers
that were acquired ahead); `replies_owner` (a base for an actor with a log of its own); `handle` (for a script, by
`engine`), with `handle_errors`.
"""
