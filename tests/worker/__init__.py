"""Tests of the worker: its process, pipeline, steps and providers, under faults of every kind.

front            What an API process does, without HTTP: submit, poll, follow, cancel
single_attempts  Runs single attempts by the pipeline in the test's own loop, without a worker
claim_answers    Claims that a test answers
running_workers  Runs whole workers in the test's own loop
round_scenes     A model that calls two tools, and what must hold at the end
scripted_tools   Tools that reply as a test says
tool_worker      A worker process with tools that a test directs by files
lossy_redis      A connection to a real Redis that loses the calls that a test names
rewording_model  The model that rewords messages, over the scripted upstream
search_scenes    A search service and its pages for tests of searching turns
url_fetching     A resolver with scripted answers, and responses, for tests of the URL fetcher
webhook_scene    An account with events, and deliverers without a worker around them
name_server      A DNS server on loopback that stays silent for some names
providers        One conformance suite over every dialect of upstreams
web_search       Clients of search services, on real sockets
upstream_faults  Faults of upstreams row by row, and what then happens to a message
fuzz             Mutated streams, read by each adapter and by a plain reading of the standards
"""
