"""The whole system on one machine, as child processes of one supervisor.

system       what belongs to it, decided from the environment; starts it and makes it answer
supervisor   keeps children running: start in order, start again, stop in reverse
janitor      a program: kills and removes what is left once the supervisor is gone
folder       the data folder: its lock, its secrets, its logs
valkey       the embedded Redis-compatible server, as a child
model        the local model, as a child and as the program that serves it
catalogue    the settings file that names the local model
erase        a program: removes every key of a prefix from a Redis that is not ours
progress     what a person sees meanwhile
"""
