"""The front, on real sockets."""
