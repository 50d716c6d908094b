"""Where clients connect: `frames` with `frame_decoder` and `frame_errors` (what is on the wire), `connection`,
`front_door` and `door_sockets` (connections, bounded), `forwarding_messages`, `forwarding` and `gateway_port` (requests
to the primary, replies back), `gateway` (the actor of them).
"""
