"""The Redis functions and the client, on real servers: what each promises, and what it refuses."""
