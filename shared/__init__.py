"""What the front and the workers must agree on, and nothing they need not.

settings    every setting, its type, default and bounds
errors      every error of Pollux, as one tree
clock       wall clock, monotonic clock and sleep, which tests can turn
ids         identifiers and API keys
lifecycle   the stages of a generation, and which may follow which
companions  what a companion is, and those that ship
clarity     whether a message wants rewording, told from its form
tiers       what accounts may do, by tier
websearch   the table of the service that searches the web
redis_url   what a URL of Redis may say
reading     the files and variables that settings come from, and every fault in them
sections    what a table of the settings is, and those of media and the way out
egress      where a URL that others name may lead: pure decisions
hangup      what SIGHUP means to a process
catalogue   which providers and models there are, by their names
wire/       the records that cross a process or rest in Redis, as msgspec Structs
redis/      one connection, every key, and the atomic functions with their typed stubs
stores/     one file a family of keys: accounts, generations, sessions, fleet, pace
media/      what models make, as files and as signed URLs
garbage_collection  how often Python's cyclic collector runs in a process
queue       the doorbell, and the pool of arq's own queue
streams     a generation's events: numbering, encoding, listening
routing/    which model answers: a pure decision
telemetry/  logs

A file is admitted here only if both sides break when it changes. Nothing here knows HTTP, a
dialect's words or a provider's.
"""
