"""What the API processes and the workers must agree on.

lifecycle           The stages of a generation, and which stage may follow which
errors              Every error of Pollux as one tree, with its public codes
ids                 Makes and checks identifiers and API keys
clock               Wall clock, monotonic clock and sleep, which tests can replace
fairness            How accounts share the workers: the numbers of the lanes' virtual time
settings            Every setting: its table, type, default and bounds
settings_types      Field types and the base class of a settings table
settings_loader     Reads TOML files and variables into trees; finds every fault in them
search_settings     The table `[search]`: the service that searches the web
tiers               The tables below `[limits]`: what an account of each tier may do
companions          The companions that ship, and what describes one
redis_url           Checks the parts of `redis.url`
egress              Decides whether a URL that a caller or a model named may be called
catalogue           Finds providers and models by name
json_schema         Takes callers' JSON schemas within bounds, and checks a text against one
clarity             Decides from a message's form whether it needs rewording
sighup              On SIGHUP: reload, or end where the terminal has gone
garbage_collection  Tunes Python's cyclic garbage collector
chore_queue         arq's queue, which carries chores and nothing else
wire                The records that cross a process or are stored in Redis
redis               The connection, every key, and the atomic functions
batches             What API processes and workers both do for batches
stores              Typed reads and simple writes, one module for each kind of record
routing             Which model answers, and what that may cost
media               Pictures and sounds: formats, files, signed URLs
telemetry           Logs

A module belongs here only if both sides break when it changes. Nothing here knows HTTP, the words
of a dialect, or those of a provider.
"""
