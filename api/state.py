"""What all requests of a process share, made once by the lifespan in app.py.

Handlers reach every other room through it. No room below `endpoints` imports it: each gets the
parts that it needs when app.py wires them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from api.accept.accept import Submissions
from api.accept.rejections import Rejections
from api.batch_tasks import BatchTasks
from api.batches.uploads import Uploads
from api.follow.stream import Streams
from api.follow.subscriber import Subscriber
from api.follow.wait import Waits
from api.guards.identify import Identities
from api.guards.inflight_bodies import InflightBodies
from api.guards.large_pages import LargePages
from api.guards.open_waits import OpenWaits
from api.guards.rate_limits import RateLimits
from api.guards.revocations import Revocations
from api.live_fleet import LiveFleet
from api.polling.hints import Hints
from api.polling.overdue import CurrentGenerations
from shared.catalogue import Catalogue, CatalogueHolder
from shared.clock import Clock
from shared.errors import ConfigurationError
from shared.media.files import MediaFiles
from shared.media.url_signing import UrlSigner
from shared.redis.client import Redis
from shared.redis.server_watch import ServerWatch
from shared.settings import Settings
from shared.stores.accounts import Accounts
from shared.stores.batches import BatchResults
from shared.telemetry import logs


@dataclass(kw_only=True)
class State:
    """What every request may reach.

    `server_watch` knows whether the Redis server keeps what is acknowledged, and whether it is
    still configured so.
    """

    settings: Settings
    environment: Mapping[str, str]
    catalogue_holder: CatalogueHolder
    clock: Clock
    redis: Redis
    server_watch: ServerWatch
    # guards
    accounts: Accounts
    identities: Identities
    revocations: Revocations
    inflight_bodies: InflightBodies
    rate_limits: RateLimits
    open_waits: OpenWaits
    large_pages: LargePages
    # features
    live_fleet: LiveFleet
    rejections: Rejections
    submissions: Submissions
    uploads: Uploads
    hints: Hints
    generations: CurrentGenerations
    batch_results: BatchResults
    batch_tasks: BatchTasks
    subscriber: Subscriber
    streams: Streams
    waits: Waits
    files: MediaFiles
    url_signer: UrlSigner

    @property
    def catalogue(self) -> Catalogue:
        """The catalogue as it is now; SIGHUP may replace it between two requests."""
        return self.catalogue_holder.catalogue

    def reload_catalogue(self) -> None:
        """Load the catalogue again; a faulty one is logged and changes nothing."""
        try:
            catalogue = Catalogue.of(Settings.read(self.environment))
        except ConfigurationError as error:
            logs.logger().error("the catalogue stays as it was", faults=error.faults)
            return
        self.catalogue_holder.catalogue = catalogue
        logs.logger().info("catalogue reloaded", models=len(catalogue.models))
