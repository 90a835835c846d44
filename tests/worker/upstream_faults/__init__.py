"""Faults of upstreams row by row, and what then happens to a message.

faults    The rows: a script of bytes each, and the expected outcome
runner    A deployment with two models, of which the first misbehaves
__main__  Prints the table; a test compares the same rows with what is expected
"""
