"""The owner's side of the component's protocol.

In reading order: `replies_port` (what a replica uses), `port_events` (what it is notified of), `write_queue` (what it
writes, and what goes out next), `buffers` (leases, and large replies in them), `queries` (reads and waits). On top of
it: `replies_owner` (a base for an actor with a log of its own), `handle` (for a script, by `engine`), `handle_errors`.
"""
