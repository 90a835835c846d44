"""What operators may ask over HTTP, `/admin/v1`, on a bind of its own: routes, wire, translate.

routes      the table of routes and their handlers
wire        the fields of requests and replies
translate   between stored dead letters and those replies

Every route needs a key with the scope `operator`, which sees all accounts. Errors have the shape of
the Kolbo dialect.
"""
