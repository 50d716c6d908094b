"""The component: three actors that keep the latest reply of every client session.

Read in this order: `slots` (the rules), `client_replies` (the door: who may ask what and when, opening, closing), then
what it is made of: `opened` (what all parts share), `writing`, `reading` with `serving`, `repair` (whom to ask) and
`repairing` (asking), `checkpointing`, `calls` (requests that have no answer). `storage` owns the file, `message_pool`
the memory.
"""
