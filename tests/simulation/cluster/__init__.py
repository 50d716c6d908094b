"""The simulator of the whole cluster: see README.md."""
