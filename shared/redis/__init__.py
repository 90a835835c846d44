"""Redis as the system of record: the connection, every key, and the atomic functions.

client         One connection for many callers: commands of one event-loop tick share a write
dsn            Parses `redis.url`, for our connections and arq's
outage         What an error reply means, and Retry-After while Redis is away
keys           Every key: its name, what it holds, when it ends; and every channel
functions      The atomic functions: their Lua, and the typed stubs that call them
library        Renders the Lua into one library, loads it, and calls its functions
key_types      Which keys a call may touch, and the type that each should have
replicated     A connection whose replies wait until a replica has the writes
server_check   Checks version, eviction, durability and permissions of the server
server_watch   Repeats that check while a process runs, and looks for overwritten keys
partitions     The number of partitions, which every process must know

The package `redis` is imported only here.
"""
