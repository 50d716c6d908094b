"""The actors that own the state of the component, and what they need to live on Thespian."""
