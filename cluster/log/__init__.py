"""The log on disk: `log_store` (one SQLite file for each replica), `log_writer` (its writes, beside the mailbox)."""
