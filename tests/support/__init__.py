"""What tests stand on: real servers, scripted upstreams, real processes, and waiting with a bound.

server       a Valkey or redis-server of one's own, on a unix socket in a folder that goes with it
ledger       does what is left in Redis add up? Asked after every test that used the server
desk         the Redis functions, with defaults
office       accounts that make API keys of their own
wishes       the optional words of their calls
proxy        a door to a server, with faults on demand
provider     an upstream of the OpenAI kind, on a real socket, that answers what it is told to
completions  what it says, and the bytes of it
system       fronts, workers and accounts, inside the test or as processes
processes    the front and the workers as an operator starts them
command      the `pollux` command, in a terminal's place
family       the processes that a process has started
customer     a customer's program
document     the published document, as a referee of answers
waiting      wait for a condition, with a bound
"""
