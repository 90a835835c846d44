"""How Pollux is run: the `pollux` command, and the whole system on one machine.

cli                  the command: a map of its subcommands
demo                 the whole system once, with a conversation, and nothing left behind
up                   the whole system, kept running for development
apart                one part of it, as production runs it
ask                  a question, and its answer as it is made
follower             receives an answer over HTTP
answer               what is shown of an answer while it is made
waiting              what a message waits for, as long as nothing of its answer has come
models               the catalogue of models
config               whether the settings can be used, and what they are
reach                whether a provider answers
prices               a program that renews the catalogue's rates
keys                 API keys: made, listed and revoked
accounts             accounts: listed, shown, and their tier changed
credits              credits: shown, granted and taken back
store                how these commands reach accounts, dead letters and damaged keys in Redis
dead                 what failed for no fault of its caller: listed, retried, discarded
damage               keys that something else has overwritten: found, and mended
options              what several of them share on the command line
caller               a careful client of the published API, which the demo is
local/               a store, a model, the front and the workers as children of one supervisor

Beside them: the catalogue that comes with Pollux (catalog.toml), the image and the composition for
production (Dockerfile, compose.yaml), the script that pins what they stand on (pin.sh), and the
pinned dependencies (requirements/) with the script that makes them (lock.sh).

It starts the other parts as processes and imports none of them.
"""
