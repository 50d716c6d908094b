"""The immutable messages of the component, and the bytes of a reply.

One module per conversation; `protocol.PROTOCOL` lists every message with who sends it, who receives it and what
answers it.
"""
