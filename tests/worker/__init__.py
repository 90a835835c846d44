"""The worker: its providers, its steps, the pipeline, the process; hostile on purpose.

providers/  one conformance suite over every dialect of upstreams
search/     the services that search the web, on real sockets
nameserver  a name server that stays silent where it is told to
fetching    the way out as its tests call it
front       what a front would do, in few words: submit, look, follow, cancel
fuzz        `python -m tests.worker.fuzz`: mutated streams against a plain reading of the standard
"""
