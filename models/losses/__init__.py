"""The losses: one module an algorithm, each ``loss(embeddings (B, E), labels (B,)) -> (1,)``."""
