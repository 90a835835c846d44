"""The worker process: claims generations, renews their leases, reloads, drains.

arq_worker  The subclass of arq's Worker: loops, signals, attempts, drain
listener    The connection on which cancels arrive, and whether it is lost
claims      Claims from every partition; requeues claims whose reply was lost
wakeup      The connection on which an idle worker blocks, and its replacement when it is dead
backlog     What may be claimed now: room by resource, parked lists, permits
batch_pace  How many batch turns run at once while persons talk
slots       What runs here, and how many more of each lane may run
heartbeat   The thread that renews leases
reload      Replaces the catalogue of a running worker
reap_log    Logs what a reap did
"""
