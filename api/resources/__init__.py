"""What callers do to their sessions, messages, batches and API keys, in any dialect.

sessions       Creates, lists, renames and deletes sessions
api_keys       Creates, lists and deletes an account's own API keys
message_pages  Reads a page of messages, and sends a large one in pieces
batches        Finds, lists, pauses, resumes, retries, cancels and deletes batches
webhooks       Sets an account's webhook; lists and replays deliveries
batch_results  Sends the results of a batch, line by line
batch_copies   Puts the copies of items among these results
"""
