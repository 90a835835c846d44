"""The process of a worker: takes generations off the queue, holds their leases, and drains."""
