"""Redis as the system of record: one connection, every key, and the functions that change them.

client      one multiplexed connection a process; commands of one event-loop tick leave in one write
dsn         what `redis.url` says, read once for our connections and arq's
outage      what error replies mean, and when to come again while Redis is away
keys        the only place that makes a key's name, with what it holds and when it ends
functions/  the atomic functions, as Lua text
library     renders the functions into one library, and loads it
types       which keys a call is concerned with, and of which type each should be
replicated  a connection for what counts once a replica has it
functions.py  their typed stubs: one a function, with what each may answer
server      is this server fit to hold the record?
partitions  how many there are: the number that every process must know
watch       is it still fit? looked at again while a process runs

The package `redis` is imported only here.
"""
