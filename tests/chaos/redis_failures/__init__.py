"""What can befall Redis, row by row, and what then becomes of whom a running system serves.

troubles   the rows: how each begins, lasts and ends
scene      a deployment: a server of its own, one front and two workers as processes
callers    programs that submit, poll, wait, follow and ask for health, and what they saw
play       one row from its beginning to its end, and what it came to
verdict    what must hold of that
__main__   prints the table; a test plays the same rows, with short ones
"""
