"""Attacks on a running system with default limits: what each costs, and what another tenant sees.

`python -m tests.attacks` runs all against this checkout and prints one table in under five minutes;
`--only NAME` runs one, `--base DIR` runs them against another checkout that has its own `.venv`.

aims           every bound, with its reason
target         the system: server, upstream, front and workers of a checkout, as processes
tenant         a program: another account that goes on working, and how long it waits
flood          raw requests, floods of them, and the memory of processes
storage        sessions and cancelled messages that fill the server; operators at a full one
conversations  pages of a long conversation, and a short message in it
folders        a stranger who makes the local system's runtime folder first
pictures       silent DNS names, and many requests to one host
traffic        refused and repeated submissions, revoked keys, idle connections, slow bodies

All traffic goes to 127.0.0.1. What differs from the defaults: the server's `maxmemory`, where an
attack is to fill it, the scripted upstream, and for pictures the way to 127.0.0.1.
`test_verdicts` shows that a verdict can be bad.
"""
