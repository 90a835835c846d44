"""The front: a dialect becomes a submission, a generation a dialect. Never calls a model.

app         the table of contents: mounts, the order of guards, the lifespan
edge        uvicorn's HTTP protocol with bounds on heads, and refusals in JSON
connections the bound on open connections of a process
transport   what uvicorn's protocol sees of a connection
head        the head of a request: what it may say and how large it may be
cycle       the answer to a request on the wire: its head, its length, its end
watchdog    the time limits of a connection
farewell    how a waiting request learns that its client or this process goes away
refusals    whole error responses for what no route answers
state       the typed things a request may reach
fresh       a cache of look-ups that are renewed before they are too old
endpoint    one row of a dialect's table of routes: who may, how much, what comes in, what goes out
errors      one place where our error becomes the mount's own error shape; the single catch-all
guards/     who, how often, how big
dialects/   kolbo, kombify: routes, wire, translate
admin/      what operators may ask, behind a door of their own: dead letters
options     what a caller may say with a message, in every dialect
fields      fields that replies of both dialects have, and what they mean
headers     the headers of requests and answers, and what they mean
parameters  what every dialect reads from path, query and headers
sessions    what callers do to their sessions, whichever dialect they speak
keys        what callers do to the API keys of their account
pages       pages of messages, in pieces of bounded size
accept      the one door: price, hold, create, enqueue, receipt
not_accepted  why a message was not accepted, as an error with its code and Retry-After
pressure    load shedding: whom to turn away when there is too much, and for how long
follow/     the one window: what is heard of a generation, kept, waited for and told
stream      a generation's events to one follower
overdue     what only time must end, ended by whoever looks
resume      a POST that was sent again with Last-Event-ID: which generation it goes on with
event_ids   ids of events as callers send and read them
hints       when to look again, for a message just taken in and for a generation as it stands
pace        the arithmetic of that: hints and estimates from measured durations
spread      when to look at answers whose durations do not tell the end
turn_wait   how long until a turn begins, and how far that may be trusted
links       where a generation is looked at, followed and cancelled
media       the files that models made, to whoever has a signed URL
cors        which pages in browsers may call the API, and what they may read
operations  what this is, health, readiness, OpenAPI
openapi     the published document, made of the tables of routes
schemas     its schemas, made of the types that are sent
"""
