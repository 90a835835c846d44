"""Failures of Redis, one row each: what clients of a running system see of them.

__main__     The command: runs every row and prints the table
clients      Clients that submit, poll, wait, follow and check health, and their calls
deployment   A server, one front and two workers as processes
failures     The rows: how each failure begins, how long it lasts, how it ends
runner       Runs one row from before the failure until everything works again
verdict      What must hold for every row

`python -m tests.chaos.redis_failures` prints the table; a test runs the same rows, shortened.
"""
