"""Attacks on a running system with default limits: what each costs another tenant.

`python -m tests.attacks` runs all against this checkout and prints one table in under five minutes;
`--only NAME` runs one, `--base DIR` runs them against another checkout that has its own `.venv`.

__main__       The command: runs the attacks and prints the table
bounds         Every bound, with its reason
conversations  Pages of a long conversation, and a short message in it
flood          Raw HTTP requests, floods of them, and the memory of processes
folders        An attacker who creates the local system's runtime folder first
other_tenant   Program: another account that keeps working, and how long it waits
pictures       DNS names that no server answers for, and many requests to one host
storage        Sessions and cancelled messages that fill the server; operators at a full one
target         The attacked system: server, upstream, front and workers of a checkout, as processes
traffic        Refused and repeated submissions, revoked keys, idle connections, slow bodies

All traffic goes to 127.0.0.1. Different from the defaults are only: the server's `maxmemory` where
an attack fills it, the scripted upstream, and the permission to fetch pictures from 127.0.0.1.
`test_verdicts` shows that a verdict can be bad.
"""
