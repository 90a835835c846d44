"""Benchmarks: speed, memory and punctuality; the promised figures rest on them.

`python -m tests.bench` runs all and prints one table; `python -m tests.bench.<name>` runs one.

__main__           The command: runs every bench and prints one table
adapters           CPU of a streamed token in each provider's adapter, compared with bare httpx
arq_front          Program: a front and a worker of stock arq, the peer of `pickup`
backlog            Accept and claim at a backlog of a million, compared with a thousand
bare_front         Program: bare uvicorn with one Redis call a request, the baseline of `front`
batch_beside       What a batch costs persons while it runs, is uploaded, downloaded or ended
batch_download     Cost of the download of a batch's results: speed, memory, and everybody else
batch_engine       Items a second of a batch beside the engine's own rate, and bytes of an item
batch_keys         Many uploads at once with each of many Idempotency-Keys
batch_million      A million prompts end to end, beside plain generations and calls by hand
batch_stop         From the cancel of a million items to the last one's end; their deletion
batch_upload       Cost of the upload of a batch: speed, memory, Redis bytes, and everybody else
batch_watch        A running batch: its progress, what the API foretells, workers' memory
bounds             Every bound that a figure is held to, with its reason
busy_loop          Program: takes a share of one core
cancel             From a cancel to the end of the upstream's call
contestants        Starts our engine and its peers as processes, and exchanges lines with them
conversations      200 conversations at once: every answer in its place, once
direct_calls       Program: asyncio and httpx calling the upstream, as in a script of one's own
engine             Generations a second of one worker with nothing else to do, compared with peers
fairness           How much a big account slows a small one, and a batch a person
fast_upstream      Program: an upstream of every dialect, with a fixed answer or an echo
figures            A figure, its table, and repeated rounds where verdicts differ
follower_process   Program: many followers in one process
followers          Ten thousand followers of one front: memory, lateness, other requests
front              Requests a second of one API process, compared with a bare server
http_load          Sends as many requests as a server takes, by wrk or a bare client
idle               CPU and commands of workers that have nothing to do
memory             Bytes that a generation leaves in Redis
noop_worker        Program: our worker with a provider that answers at once, without HTTP
other_tenant       How much longer another tenant's messages take beside something
overdraft          Ten thousand messages at once on credits for a hundred
pages              Cost of pages of long conversations for everybody else
parked             Cost of turns that wait for a key or a limit, and how soon they go on
peers              Other queues with the same command line
pickup             From a POST to the upstream's first byte, compared with stock arq
persons            Program: persons who send messages at a steady rate
poll_policy        The poll hints alone, with simulated clients and without sockets
polling            Lateness and polls of real clients that obey the hints
polling_scenarios  The same where answers wait for others, or come from the local model
process_usage      CPU time and memory of processes, from /proc
queue_rig          A server and an account with queued generations, without a front
redis_monitor      Counts the commands that a server receives, by MONITOR
redis_tap          Counts what one process writes to Redis, by a socket in between
result_reader      Reads a batch's results as a client does, and checks every line
stream_client      Program: a cheap client of streamed answers
streams            Streamed answers, compared with the upstream itself and LiteLLM
system_rig         A whole system as processes: server, upstream, front, workers
trips              Round trips to Redis of one generation
wakeup             From the enqueue to the job's function, compared with other queues

What is compared is measured in the same run, in turns. A figure without a comparison is of that
machine and that hour only. Where rounds disagree about a bound, seven rounds are taken and their
median is judged (`figures.rounds`).
"""
