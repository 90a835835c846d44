"""The bound of every figure, with its reason: the only place where bounds are written.

A bench prints its bounds beside its figures. Where something is compared, the bound is a ratio to
what was measured in the same run; a time is for a machine of two cores.
"""

from typing import Final

# front: shares of the rate of a bare server on the same pipelined connection.
# Authentication, limits, parsing and the record of a message may cost a tenth of a bare POST.
SUBMIT_SHARE: Final = 0.9
# A status is requested most often, and does little more than a bare GET.
STATUS_SHARE: Final = 0.9

# trips: round trips to Redis.
# A POST is one round trip; a cached lookup is refreshed now and then.
TRIPS_A_POST: Final = 1.05
# A claim and a settlement; claims are shared, and events are sent with the settlement.
TRIPS_A_GENERATION: Final = 2.0

# engine: rates of one worker process, as multiples of the peer in the same run.
# Leases, fairness, order and fencing may cost three tenths of the functions called in a bare loop.
OF_BARE_LOOP: Final = 0.7
# Our job is a turn with its credits and events, theirs does nothing; ours is still as fast.
OF_SAQ: Final = 1.0
OF_TASKIQ: Final = 1.0
# arq polls, which is why its queue was replaced.
OF_STOCK_ARQ: Final = 5.0
# A second worker shares the work and adds none, except its idle turns.
CPU_SPREAD_OF_TWO: Final = 0.15

# wakeup: ms from the enqueue to the job's function.
# A waiting worker is woken through Redis, a few hops away.
WAKEUP_P50_MS: Final = 1.5
# With a busy tick or a page fault; a polling worker takes hundreds.
WAKEUP_P99_MS: Final = 5.0
# A woken worker sends one command more; the rest is noise of counting over seconds.
COMMANDS_OF_MANY_WORKERS: Final = 0.5

# cancel: seconds to the upstream's end, the worst of a run.
# To a person the text seems to stop at once.
CANCEL_SECONDS: Final = 0.2

# pages: of a long conversation, read by several at once.
# A piece as it is read, decoded and encoded: a turn of two messages of 200,000 characters.
PAGE_MIB: Final = 8.0
# A turn's two records of 800 kB, and the rest of a buffer.
PAGE_REPLY_MIB: Final = 2.0
# Copying a turn's records; all other commands wait for it.
PAGE_COMMAND_MS: Final = 5.0

# adapters: multiples of what bare httpx and json take of CPU for a token.
# One event a chunk: bounds and errors are checked for each read.
ADAPTER_SINGLE: Final = 1.5
# Forty a chunk: the cost of the socket is shared, that of our checks is not.
ADAPTER_BURST: Final = 2.0

# fairness: multiples of the time without the other load.
# Messages of a big account alternate with those of a small one.
SMALL_ACCOUNT_P99: Final = 2.0
# A batch leaves slots free, so a person only notices noise.
PERSON_P50: Final = 1.1
PERSON_P99: Final = 1.25

# backlog: the time of an operation at a long backlog, as a multiple of that at a short one.
# Data structures are logarithmic at most; processor caches explain the rest.
BACKLOG_TIMES: Final = 1.3

# idle: what a worker without work takes.
# Less than a monitoring agent takes.
IDLE_CORE_PERCENT: Final = 1.0
# Commands a second: its heartbeat, its report and its wait for a wakeup.
IDLE_COMMANDS_EACH: Final = 5.0
# Commands a second of the whole fleet, however large: the reaping is shared.
IDLE_COMMANDS_FLEET: Final = 20.0

# memory: bytes that a generation leaves in Redis beyond its texts.
# A million of them must fit in 1.5 GB, and their events in 48 MB.
BYTES_A_GENERATION: Final = 1536 + 48

# streams: ms that a first token may come later than from the upstream itself.
# Two hops through Redis and a tick each.
FIRST_TOKEN_MS: Final = 6.0
# Thirty-two at once wait for each other in the event loops.
FIRST_TOKEN_MANY_MS: Final = 15.0
# Answers of five tokens a second, on two cores with the upstream and the clients.
SHORT_A_SECOND: Final = 300.0
SHORT_CPU_MS: Final = 3.0
# Tokens a second of answers of 500, and CPU a token of all processes between.
LONG_TOKENS_A_SECOND: Final = 20_000.0
LONG_CPU_US: Final = 50.0
# An answer of fifty tokens, each sent by itself.
PACED_CPU_MS: Final = 12.0

# followers: ten thousand of them on one front.
# 400 MB for all of them.
FOLLOWER_KIB: Final = 40.0
# A person does not notice a shorter delay.
DELIVERY_P99_MS: Final = 100.0
# Another client does not notice the followers.
OTHERS_P99_MS: Final = 20.0
# The work of worker and server does not depend on followers; noise of their CPU.
MANY_FOLLOWERS_TIMES: Final = 1.15

# conversations, overdraft: exact. One misplaced answer or one credit too many is a fault.
FAULTS: Final = 0

# polling, policy: the contract's own bounds.
# Half of the clients learn of the end within this time.
LATE_P50_SECONDS: Final = 1.0
# 95 of 100 within this time, or this share of the duration if that is more.
LATE_P95_SECONDS: Final = 2.0
LATE_P95_SHARE: Final = 0.1
LATE_SHARE: Final = 0.05
# Where the end cannot be predicted: this share of the time waited.
LATE_UNKNOWN_SHARE: Final = 0.5
# Polls: this many, and one for each doubling of the duration.
POLLS_BASE: Final = 4

# batch_download: results of a batch, by one front.
# Short lines, for a second of its CPU: a million in less than a minute.
DOWNLOADED_LINES: Final = 20_000
# A chunk and a few pieces of the answer are in memory, whatever the size of the batch.
DOWNLOAD_MIB: Final = 16
# Persons do not notice that somebody downloads.
BESIDE_DOWNLOAD: Final = 1.1

# batch_engine: feeding, counting and packing cost an item a fifth of a generation at most, and
# beside what is compressed it leaves its place in the orders and its share of its chunk's keys.
BATCH_OF_ENGINE: Final = 0.8
BATCH_ITEM_BYTES: Final = 100

# batch_million: beside these, the bounds of batch_engine, batch_upload and batch_download.
# A worker that fills the window or packs chunks never stops the others for long.
BATCH_GAP_SECONDS: Final = 2.0
# What a worker keeps does not depend on how many items it has run.
BATCH_WORKER_MIB: Final = 16
# The rate shown is that of the last half minute, which lags; the ETA assumes that it stays.
SHOWN_RATE_ERROR: Final = 0.1
SHOWN_ETA_ERROR: Final = 0.15

# batch_upload: a million short prompts, by one front.
# For a second of its CPU: a million in about two minutes of one core at most.
UPLOADED_LINES: Final = 8_000
# Lines, chunks and names are in memory one at a time, whatever the size of the file.
UPLOAD_MIB: Final = 64
# Beside the compressed text of a waiting item.
WAITING_BYTES: Final = 100
# Persons do not notice that somebody uploads.
BESIDE_UPLOAD: Final = 1.1

# batch_beside: persons' messages with a batch, as multiples of without.
# Persons do not notice that somebody has a batch.
BESIDE_BATCH: Final = 1.1
# Seconds that ten items take longer: they take turns with another account's items.
SMALL_BATCH_SECONDS: Final = 2.0

# batch_stop: ms of the longest call of Redis while a batch of any size is cancelled or deleted.
BATCH_CALL_MS: Final = 5.0
