"""What keeps the processes of a cluster up: `members` (replicas), `gateway_keeper` (the gateway), `cluster_directory`
(whose the files are), `service` (all of it: what `serve` runs), `failure`.
"""
