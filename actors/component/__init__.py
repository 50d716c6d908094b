"""The component: three actors that keep the latest reply of every client session.

Read in this order: `slots` (the rules), `lifecycle` (the states, and what outlives them), `client_replies` (the door),
then the states: `opening`, `open` and `closing` with `open_file` (what they share), `stopped`. What does the work while
a file is open: `opened` (what all parts share), `writing`, `reader` and `peer_server` with `read_lane`, `scrubber`,
`repair_planner` (whom to ask) and `repair_service` (asking), `checkpointing`. `storage` owns the file, `message_pool`
the memory.
"""
