"""Living on Thespian: `system` (starting and stopping), `component_actor` (what all our actors have in common),
`environment` (everything that an actor takes from outside), `logs`, and `base`, the system base below them all.
"""
