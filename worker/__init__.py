"""Independent workers: each claims generations, generates their answers and settles them.

__main__         Reads the environment and runs one worker
pipeline         The list of a generation's steps, and the single catch-all
run              Run, the state of one attempt; Dependencies, what all attempts share
model_call       One model turn: a request in, parts out, with retries and failover
receive_answer   Receives the parts of one upstream call, within its timeouts
rounds           The finished rounds of an answer: calls of the model, and tools' results
tools            What a tool is, and which ones there are
outcome          The closed set of outcomes of an attempt; StopSignal stops one from outside
parking          The resource that a parked turn waits for
writer           Appends an attempt's events and text to its stream, under the fencing token
answer_lengths   Average answer lengths by model, and the progress computed from them
media_store      Stores media that a model generated, and signs their URLs
redis_retry      Repeats a Redis call until it is answered, with backoff
partition_guard  Logs what fails in one partition, so that the others are still worked on
consumer         The worker process: claims from the queue, leases, heartbeat, reload, drain
steps            One file for each step of the pipeline
resilience       Whether an upstream may be called now, and what follows a failed call
providers        Clients of model upstreams: one file for each dialect, and what they share
web_search       Clients of web search services
fetching         Fetches the URLs of images, safely
batches          Feeds the queue from batches, and packs what has ended
webhooks         Sends the events of accounts to their receivers
chores           Periodic work, once per slot in the whole fleet

A worker never speaks HTTP to a caller and never decides what a caller may do. Imports point down
one list of layers, which pyproject.toml holds: consumer, pipeline, steps, model_call, run, then the
rest.
"""
