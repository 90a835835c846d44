"""The Kombify dialect as one object."""

from typing import Final

# A generation that any dialect made is polled and followed at one place.
from api.dialects.kolbo.links import LINKS
from api.dialects.kombify.chat import EVENTS
from api.dialects.kombify.errors import ERRORS
from api.dialects.kombify.routes import ABOUT, ENDPOINTS
from api.dialects.kombify.webhook_routes import WEBHOOK_ENDPOINTS
from api.endpoints.dialect import Dialect

KOMBIFY: Final = Dialect(
    name="kombify",
    about=ABOUT,
    prefixes=("/v1/ai",),
    endpoints=(*ENDPOINTS, *WEBHOOK_ENDPOINTS),
    errors=ERRORS,
    links=LINKS,
    encoder=EVENTS,
    path_parameters={
        "type": "A companion's `type`, of GET /v1/ai/agents.",
        "delivery_id": "The `id` of a delivery, of GET /v1/ai/webhooks/deliveries.",
    },
)
