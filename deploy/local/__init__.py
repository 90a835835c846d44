"""The whole system on one machine, as child processes of one supervisor.

system       starts what belongs to it, and makes it answer
named        what the operator has named, and so need not be embedded
parts        the front, the workers and the model, as children
valkey       the embedded server, as a child
model        the program that serves the local model
catalogue    the settings file that names the local model
resident     the account `dev` and the key that is printed
folder       the data folder: its lock, its secrets, its logs
network      which port is free
supervisor   keeps children running: start in order, start again, stop in reverse
janitor      a program: kills and removes what is left once the supervisor is gone
erase        a program: removes every key of a prefix from a Redis that is not ours
ending       runs until the work is done or somebody says stop
progress     what a person sees meanwhile
"""
