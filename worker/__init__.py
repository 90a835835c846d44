"""Independent arq workers: each takes a generation's id, makes its answer, and settles it.

consumer    the only file that knows arq's Worker: claim, reap, drain, chores
claims      taking work: claims from every partition, and the wait at the bell
slots       what runs here, and how much more of which lane may
heart       the thread that keeps the leases
pipeline    the life of a generation: the list of steps and the single catch-all
reaping     what a reap did, as lines of the log
renewal     the step from one catalogue to the next
bell        the connection on which an idle worker waits, and its replacement when it is dead
apart       what fails in one partition is logged, and the next ones have their turn
backlog     what may be claimed now: which resources have room, and for how many turns
permits     room at providers, taken before the turn that uses it is claimed
gate        which calls of upstreams are made at all: breakers, throttles, limits, retry budgets
causes      whose fault a failed call is, what it closes for others, what becomes of its message
circuits    what fails together, what is told of a failure, why a call is not made
throttles   which providers take fewer calls than are made, as this worker knows them
remaining   how many calls a provider will still take, as its answers tell
budget      the arithmetic of second tries
limits      the arithmetic of a provider's limits
lengths     how long the answers of each model are, and how far an attempt has come
run         the value that the steps pass along, and the closed set of outcomes
fetch       the one way out to URLs that others name
names       the addresses of a name, without a thread, a share for each account
pictures    pictures of turns that were put off, held until the next attempt
gallery     where an attempt puts what its model made
insist      what must be said to Redis, said until it is answered
writer      the answer's way out: events and text, coalesced, under the fencing token
steps/      verbs, one a file
providers/  how to talk to an upstream: contract, registry, one file a dialect
search/     how to ask the web: contract, one file a service, its line
chores/     periodic work

A worker never speaks HTTP to a caller and never decides what a caller may do.
"""
