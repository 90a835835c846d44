"""What tests stand on: a real server, a scripted upstream, and waiting with a bound.

server    a Valkey or redis-server of one's own, on a unix socket in a folder that goes with it
ledger    does what is left in Redis add up? Asked after every test that used the server
completions  what a scripted upstream says
provider  an upstream of the OpenAI kind, on a real socket, that answers what it is told to
proxy     a door to a server, with faults on demand
desk      the Redis functions, with defaults
waiting   wait for a condition, with a bound
"""
