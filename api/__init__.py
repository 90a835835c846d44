"""The front: a dialect becomes a submission, a generation a dialect. Never calls a model.

app         the table of contents: mounts, the order of guards, the lifespan
edge        uvicorn's HTTP protocol with bounds on heads, and refusals in JSON
state       the typed things a request may reach
endpoint    one row of a dialect's table of routes: who may, how much, what comes in, what goes out
errors      one place where our error becomes the mount's own error shape; the single catch-all
guards/     who, how often, how big
dialects/   kolbo: routes, wire, translate
accept      the one door: price, hold, create, enqueue, receipt
follow      the one window: a generation now, or when it has changed
pace        when to look again: hints and estimates from measured durations
operations  health, readiness, OpenAPI
"""
