"""The deterministic simulator: the shipped actors under every interleaving and fault that one seed can draw."""
