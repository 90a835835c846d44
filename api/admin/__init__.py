"""What operators may ask over HTTP, `/admin/v1`, on a bind of its own: routes, wire, translate.

Every route needs a key with the scope `operator`, which sees all accounts. Errors have the shape of
the Kolbo dialect.
"""
