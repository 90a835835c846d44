"""All tests. Every test that touches Redis has a real server, and none sleeps.

story      What a customer may count on: a tutorial, and the programs in README.md
unit       What needs no server
contract   The Redis functions and the client, on every kind of server
api        The API on real sockets
worker     Provider adapters, pipeline steps and the worker process
deploy     The command line, and the local system under its supervisor
property   The Redis functions beside a small model of them, by random walks
chaos      Kills, stops and outages of real processes, judged by invariants
soak       Half an hour of all faults mixed
attacks    What an attacker costs everybody else, with default limits; run by hand
exchanges  What upstreams send, byte for byte, through a whole system
generated  Clients generated from the OpenAPI document, and a conversation through each
browser    A page on another origin, in Chromium
bench      Figures, each held to a bound; run by hand
tidy       Conventions of the code, maps of packages, and the documentation
support    What tests stand on: servers, upstreams, processes, clients, clocks
"""
