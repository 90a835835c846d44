"""Uploads of batches: from a body that arrives to a stored batch that runs. Knows no dialect.

uploads        One upload from its first byte to its receipt
upload_places  How many a process takes at once, and which one ends when another needs its place
body_stream    A body as it arrives, unpacked: its minimum rate, its size, its hash
gzip_stream    Unpacks gzip in bounded steps
time_slices    Cuts long work into slices, between which other requests have their turn
lines          Cuts lines from blocks of bytes
json_items     Cuts the items from a JSON document, wherever they stand in it
item_names     Which names of items were used, kept in a file without a name
copies         Which items are identical; stores those that are copies
item_maker     From a line to an item as it waits: its price, its queue entry, or its fault
terms          The options of a batch, its receipt, and the refusal of what is beyond a quota
chunks         Stores items in chunks, and lets the batch run or deletes it
"""
