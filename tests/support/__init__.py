"""Real servers, scripted upstreams, processes and clients that the tests of all folders use.

api_client             A client of the front that checks each response against the document
batch_invariants       What holds of a batch's keys at every moment
call_options           Optional arguments of `RedisFunctions.accept` and `.dead`
chat_completions       Scripted answers of an upstream of the OpenAI kind, and the bytes they become
clocks                 Clocks that a test advances, or that skip what is slept
command_line           Parsers of test programs, whose help is their docstring
command                Runs the `pollux` command as a process, and reads what it prints
lines_dialect          A third dialect, in plain text, that tests mount from outside
mounts                 The rows of all mounts by their prefixes
openapi_document       Checks responses against the published OpenAPI document
own_keys               Accounts that create API keys of their own, also as release 0.6.1 did
process_tree           Lists the child processes of a process
processes              Starts fronts and workers as processes, as an operator does
proxy                  A TCP proxy before a server, which delays, drops or cuts on demand
redis_functions        Calls the Redis functions with defaults for what a test does not care about
redis_invariants       Checks that everything left in Redis adds up; runs after every test
redis_server           Starts a Valkey or redis-server of the test's own on a unix socket
scripted_batches       A scripted API of batches, which fails as a test wants
scripted_provider      An upstream of the OpenAI kind on a real socket that answers as scripted
stored_batch           Stores a batch as its record is documented, at any moment of its life
stored_batches         Stores batches as an upload does, ready to run
stored_conversation    Writes long conversations into Redis as `accept` and `settle` leave them
stream_reader          Reads server-sent events by their specification
system                 Runs fronts and workers inside the test's loop or as processes
terminal               A command in a terminal of its own, and what its screen shows
text_follower          The text of a follower who knows the events only
webhook_receiver       A receiver of webhooks on a socket of its own
waiting                Waits for a condition, with a time limit
"""
