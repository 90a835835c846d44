"""The operators' HTTP API, `/admin/v1`, on a port of its own.

dialect    The API as one object
routes     The route table and its handlers
wire       The fields of requests and replies
translate  Between stored dead letters and those replies

Every route needs a key with the scope `operator`, which sees all accounts. Errors have the shape of
`api/wire/error_reply.py`.
"""
