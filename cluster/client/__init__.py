"""What clients use: `cluster_client` (sessions over the front door's wire), `retry_timeout` (when to ask again)."""
