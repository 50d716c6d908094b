"""The owner's side: `replies_port` (what a replica uses), `port_events` (what it is told), `lease_stock` (the buffers
that were acquired ahead); `handle` (the same for a script, by `engine`), with `handle_errors`.
"""
