"""The Redis functions and the client on real servers: what each does, and what it refuses.

A file tests one function or one family of them, named after it; each test runs on every kind of
server, with one partition and with three. `conftest` has the functions of the last partition.
"""
