"""The Redis functions against a small model of them, by random walks."""
