"""How Pollux is run: the `pollux` command, and the whole system on one machine.

cli             The `pollux` command: its subcommands, and how an error becomes one sentence
demo            `pollux demo`: starts the whole system, holds a conversation, stops and cleans up
up              `pollux up`: runs the whole system for development
processes       `pollux api` and `pollux worker`: one process, as production runs it
ask             `pollux ask`: sends one message and shows the answer while it is generated
target          Finds the API that a command talks to, and the key
batch           `pollux batch`: sends files of prompts, and writes their answers
follower        Follows one message over HTTP, and reconnects after the last event received
answer_printer  Prints an answer on a terminal, into a pipe, or as JSON
status_poller   Polls the status until the answer begins; prints stage, queue position and ETA
demo_client     HTTP client of the demo: prints requests and replies, retries 429 and 503
retry_timer     How long a client retries, and how long it pauses between attempts
models          `pollux models`: lists the catalogue
config          `pollux config`: checks and prints the settings
provider_check  Asks a provider for its list of models, to see whether the key works
prices          Program that updates the catalogue's rates
keys            `pollux keys`: creates, lists and revokes API keys
accounts        `pollux accounts`: lists and shows accounts, changes their tier
credits         `pollux credits`: shows, grants and takes back credits
dead_letters    `pollux dead`: lists, shows, retries and discards dead letters
redis_repair    `pollux redis`: finds overwritten keys, and rebuilds the queue from the records
stores          Opens accounts, dead letters and key repair on the operator's Redis
options         Command-line options that several subcommands share
output          Prints lines and tables on standard output
local           The whole system on one machine, as child processes of one supervisor

Other files: the catalogue that ships with Pollux (catalog.toml), the image and the services for
production (Dockerfile, compose.yaml), the script that pins their base images (pin.sh), the pinned
dependencies (requirements/) and the script that writes them (lock.sh).

This package starts the API and the workers as processes, and imports neither.
"""
