"""A replicated service around the component: bring a state machine, and it is executed once on every replica.

Read in this order: `protocol` (what clients and replicas say), `durable_files` (how small files are replaced),
`control` (what the keeper of the processes tells them), `vsr` (how requests are ordered and executed once), `log`
(where that is durable), `door` (where clients connect), `replica` (the actor that puts all this and the component
together), `host` (what keeps the processes up), `client` (the library that clients use).

Each folder imports from those before it, and none imports a concrete service: that is a subclass of `ReplicaActor`.
"""
