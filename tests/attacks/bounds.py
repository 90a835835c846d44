"""What an attack may cost: the only place where these bounds are written, each with its reason."""

from typing import Final

# Other tenants: a person does not notice a shorter delay.
OTHERS_P99_MS: Final = 250.0
# How many requests of other tenants may be refused or fail.
OTHERS_REFUSED: Final = 0

# storage: MiB that a free account without credits may store by creating sessions for half a minute:
# ten requests a minute of 64 KiB at most.
SESSIONS_MIB: Final = 2.0
# MiB of a free account's texts: its quota of 50 MB, one more text, and their overhead.
CANCELLED_MIB: Final = 55.0
# How many operators' commands may fail at a full server.
OPERATORS_FAILED: Final = 0

# conversations: MiB by which the front grows for each page that is read, as for a short one.
PAGE_MIB: Final = 8.0
# MiB that a worker reads from Redis to answer a short message, however long the conversation: four
# windows of 300,000 tokens, and two chunks of 16 turns of 0.8 MB, which are read in one go.
RECALL_MIB: Final = 32.0
# Seconds that a short message takes in a conversation of many cancelled turns.
SHORT_SECONDS: Final = 2.0

# folders: starts that use a folder of the attacker.
FOLDERS_TAKEN: Final = 0

# pictures: how many messages of another account with a picture may fail.
PICTURES_FAILED: Final = 0
# Seconds that the slowest of them may take.
PICTURE_SECONDS: Final = 2.0
# Requests to one host for one message.
HOST_REQUESTS: Final = 20

# traffic: CPU of the front for each submission that is refused or repeated, ms.
REFUSED_CPU_MS: Final = 1.0
# Seconds until the streams of a revoked key have ended.
REVOKED_SECONDS: Final = 2.0
# Seconds until a connection is closed that sends half a head: `api.header_seconds` and a tick.
IDLE_SECONDS: Final = 12.0
# KiB of the front for each such connection.
IDLE_KIB: Final = 40.0
# MiB by which the front grows for bodies under way: `api.bodies_bytes_max`, and buffers beside it.
BODIES_MIB: Final = 96.0
