"""Everything that knows bytes: the data file and its devices, the session table, the pool's memory and its leases.

Nothing here is an actor. Each class is a plain object with one owner, and its tests start no actor system.
"""
