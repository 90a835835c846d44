"""How we know: every test that touches Redis has a real server, and none sleeps.

unit       what needs no server
contract   the Redis functions and the client, on every kind of server
property   the functions against a small model, by random walks
api        the front, on real sockets
generated  clients made from the published document, and a chat through each
tidy       the habits of the code, held as tests
exchanges  what upstreams say, byte for byte, through a whole system
bench      figures, not tests: run by hand
attacks    what an attacker costs everybody else, with default limits: run by hand
support    what tests stand on
"""
