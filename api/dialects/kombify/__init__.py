"""The Kombify AI API as published, and what the contract adds to it.

dialect         The dialect as one object
routes          The route table, and a handler for each row that is not a chat or about keys
chat            Sends a message, then waits for the answer or streams it
api_keys        The API keys of an account
events          The events of an account, from a cursor on
webhooks        The webhook of an account, and its deliveries
paging          Which part of a list is requested: `limit` and `offset`
errors          The bodies of refusals
wire            Requests and replies, field by field
webhook_wire    Those of events and webhooks
webhook_routes  The rows of events and webhooks in the route table
translate       From a chat body to an Intent, from a generation to an answer, items of lists
"""
