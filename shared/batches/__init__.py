"""Batches, as far as API processes and workers both work on them.

feed  Lets the next items of an account's batches enter the queue
"""
