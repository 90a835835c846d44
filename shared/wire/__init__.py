"""The records that cross a process or rest in Redis, as msgspec Structs. No I/O.

submission   what a caller asked, as a worker finds it
generation   one answer being made, as a caller may look at it
message      what a session keeps of a turn
enhancement  why a message was reworded or left alone
event        one numbered entry of a generation's stream
routing      which model was chosen, and why
account      who owns what, and the keys that prove it
fleet        what each live worker reports
letter       a dead letter: what failed for no fault of its caller

Stored records ignore fields they do not know and default those they lack, so old and new processes
read each other's. `WIRE` (in submission) is raised when an old worker could not carry out what a
new front asks.
"""
