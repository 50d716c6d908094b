"""The owner's side: `replies_port` (what a replica uses), `lease_stock` (the buffers that it acquired ahead)."""
