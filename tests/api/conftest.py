"""Fixtures of the API server's tests: a deployment, a customer, a worker, another customer."""

from collections.abc import AsyncIterator

import pytest

from tests.api.kombify_client import MANAGING
from tests.support.api_client import ApiClient
from tests.support.stored_batch import StoreBatch, StoredBatch, stored_batches
from tests.support.system import System, api, other, own_system, system, worker
from worker.consumer.arq_worker import PolluxWorker

__all__ = ["api", "other", "own_system", "system", "worker"]


@pytest.fixture
async def owner(system: System) -> ApiClient:
    """Return a customer of a running API server whose key may create others."""
    await system.front()
    made = await system.customer(scopes=MANAGING)
    # Its key is older than all others.
    system.clock.advance(1)
    return made


@pytest.fixture
async def worker_like_api(api: ApiClient, system: System) -> PolluxWorker:
    """Return a worker with the settings that a test's own `api` has changed."""
    assert api
    return await system.worker()


@pytest.fixture
async def store_batch(system: System) -> AsyncIterator[StoreBatch]:
    """Return what begins a batch of the customer's account."""
    account = await system.account()
    root = system.accounts.root_of(account)
    async with stored_batches(system.redis, root, account.id) as begin:
        yield begin


@pytest.fixture
async def batch(store_batch: StoreBatch) -> StoredBatch:
    """Return an empty batch of the customer's account."""
    return store_batch()
