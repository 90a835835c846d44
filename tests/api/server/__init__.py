"""The edge against strangers, on real sockets and on both event loops."""
