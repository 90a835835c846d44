"""Starts the whole system on one machine, and waits until it answers.

Owns the decision what is embedded, a Valkey unless a Redis is configured and a local model unless
the settings name models, and the environment that every process receives. Refuses to restart
anything itself: the supervisor does.
"""

import contextlib
import secrets
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import httpx

from deploy.local import (
    catalogue,
    child_processes,
    dev_account,
    model,
    network,
    operator_settings,
    state_folder as folders,
    valkey,
)
from deploy.local.operator_settings import OperatorSettings
from deploy.local.progress import Progress
from deploy.local.state_folder import StateFolder
from deploy.local.supervisor import Supervisor, python
from shared.clock import Clock
from shared.errors import ConfigurationError, UnavailableError
from shared.redis import library, server_check
from shared.redis.client import Redis
from shared.settings import MediaSettings, Settings
from shared.stores.accounts import Accounts

_Result = TypeVar("_Result")

# The path of a unix socket has at most 108 bytes, 104 on macOS.
_PARENT_CHARACTERS_MAX: Final = 55
_HTTP_SECONDS: Final = 2.0
_KEY_BYTES: Final = 24
_GIVE_UP_SECONDS: Final = 15.0
_POLL_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to start. `environment` is the operator's; with `port` None any free port is taken.

    `folder` is the state folder. With None no state is kept: all keys that were written to the
    operator's Redis are deleted at the end.
    """

    environment: Mapping[str, str]
    host: str = "127.0.0.1"
    port: int | None = None
    workers: int = 2
    folder: Path | None = None


class Running(NamedTuple):
    """A system that answers, and a key of its account `dev`.

    `reload` makes every process reload the catalogue. It raises ConfigurationError, and changes
    nothing, if the settings have faults.
    """

    url: str
    api_key: str
    reload: Callable[[], None]


@contextlib.asynccontextmanager
async def running(plan: Plan, progress: Progress, clock: Clock) -> AsyncIterator[Running]:
    """Start the system; stop it in order when the context is left.

    Raises:
        ConfigurationError: something is missing, taken or unfit; nothing was started.
        UnavailableError: a process cannot be started, or the operator's Redis not be reached.

    """
    operator = operator_settings.read(plan.environment)
    port = network.free_port(plan.host, plan.port)
    server_program = None if operator.has_redis else valkey.binary()
    if not operator.has_models:
        model.model_file()
    environment, cleanup_command = await _environment(plan, operator)
    async with contextlib.AsyncExitStack() as stack:
        # A state folder that is kept is locked before anything starts; a temporary one is created
        # in the runtime folder, which the supervisor brings.
        folder = (
            await stack.enter_async_context(folders.locked(plan.folder, clock))
            if plan.folder
            else None
        )
        supervisor = await stack.enter_async_context(
            Supervisor(
                _parent_of_runtime(),
                progress,
                clock,
                cleanup_command=cleanup_command,
                environment=child_processes.without(
                    environment, child_processes.upstream_secrets(operator.settings)
                ),
            )
        )
        runtime = supervisor.folder
        if folder is None:
            folder = await stack.enter_async_context(folders.locked(runtime / "data", clock))
        if not operator.has_redis:
            environment["REDIS_URL"] = valkey.url(runtime)
            environment.setdefault(operator.settings.auth.pepper_env, folder.secrets.pepper)
        if operator.settings.media.folder == MediaSettings().folder:
            environment["POLLUX_MEDIA__FOLDER"] = str(folder.media)
        upstream = None
        if not operator.has_models:
            upstream = network.free_port("127.0.0.1", None)
            environment |= _add_catalogue(operator, runtime, upstream)
            environment[model.KEY_VARIABLE] = secrets.token_hex(_KEY_BYTES)
        system = _System(folder, supervisor, environment)
        stack.push_async_callback(system.close)
        await system.start_store(server_program)
        await system.start_processes(plan, port, upstream)

        def reload() -> None:
            """Read the operator's settings first, so that faults are reported for their files."""
            current = operator_settings.read(plan.environment)
            if upstream is not None:
                _add_catalogue(current, runtime, upstream)
            supervisor.forward_sighup()

        running_system = Running(network.url(plan.host, port), await system.ensure_key(), reload)
        system.write_running_file(running_system)
        yield running_system


class _System:
    """The processes as children of one supervisor, and our own connections to them."""

    def __init__(
        self, folder: StateFolder, supervisor: Supervisor, environment: Mapping[str, str]
    ) -> None:
        self._folder = folder
        self._supervisor = supervisor
        self._environment = environment
        self._settings = Settings.read(environment)
        self._redis = Redis(self._settings.redis)
        self._http = httpx.AsyncClient(trust_env=False, timeout=_HTTP_SECONDS)

    async def close(self) -> None:
        await self._http.aclose()
        await self._redis.close()

    async def start_store(self, program: Path | None) -> None:
        """Start the embedded server, if there is one, and load the function library."""
        if program is not None:
            child = valkey.child(
                program,
                self._folder.valkey,
                self._supervisor.folder,
                self._redis,
                self._folder.lock,
            )
            self._supervisor.launch(self._folder.logs, child)
            await self._supervisor.wait_until_ready()
            names = ("REDIS_URL", self._settings.auth.pepper_env)
            self._folder.write_running_file({name: self._environment[name] for name in names})
        await self._retry_while_unavailable(lambda: library.load(self._redis))

    def write_running_file(self, running_system: Running) -> None:
        """Add the API's URL and key to the variables that reach the running system."""
        written = folders.running_environment_of(self._folder.path)
        added = {"POLLUX_URL": running_system.url, "POLLUX_API_KEY": running_system.api_key}
        self._folder.write_running_file(written | added)

    async def start_processes(self, plan: Plan, port: int, upstream: int | None) -> None:
        """Start the model, the API and the workers together, and wait for all of them."""
        if upstream is not None:
            self._supervisor.launch(
                self._folder.logs,
                child_processes.model(self._environment, self._settings, self._http, upstream),
            )
        self._supervisor.launch(
            self._folder.logs,
            child_processes.api(self._environment, self._settings, self._http, plan.host, port),
            *(
                child_processes.worker(self._environment, number, self._redis, self._settings)
                for number in range(1, plan.workers + 1)
            ),
        )
        await self._supervisor.wait_until_ready()

    async def ensure_key(self) -> str:
        """Return a valid key of the account `dev`."""
        pepper = self._environment.get(self._settings.auth.pepper_env, "").encode()
        accounts = Accounts(self._redis, self._settings.redis, pepper, self._supervisor.clock)
        return await self._retry_while_unavailable(
            lambda: dev_account.ensure_key(self._folder, accounts)
        )

    async def _retry_while_unavailable(
        self, operation: Callable[[], Awaitable[_Result]]
    ) -> _Result:
        """Repeat an idempotent operation while Redis is away: it may just be restarting."""
        clock = self._supervisor.clock
        deadline = clock.monotonic() + _GIVE_UP_SECONDS
        while True:
            try:
                return await operation()
            except UnavailableError:
                if clock.monotonic() > deadline:
                    raise
                await clock.sleep(_POLL_SECONDS)


async def _environment(
    plan: Plan, operator: OperatorSettings
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the environment of every process, and the janitor's cleanup command."""
    environment = dict(plan.environment)
    if not operator.has_redis:
        return environment | {"POLLUX_REDIS__DURABILITY": "fsync"}, ()
    has_library = await _examine(operator.settings)
    if plan.folder is not None:
        return environment, ()
    environment["POLLUX_REDIS__PREFIX"] = f"pollux-demo-{secrets.token_hex(6)}"
    return environment, python("deploy.local.erase", *([] if has_library else ["--library"]))


async def _examine(settings: Settings) -> bool:
    """Refuse a Redis that is away or unfit; return whether it has our function library already."""
    try:
        redis = Redis(settings.redis)
        await redis.connect()
    except ValueError as error:
        raise ConfigurationError([f"redis.url: {error}"]) from None
    try:
        await server_check.check(redis, settings.redis)
        return bool(await redis.call("FUNCTION", "LIST", "LIBRARYNAME", library.NAME))
    finally:
        await redis.close()


def _add_catalogue(operator: OperatorSettings, runtime: Path, port: int) -> dict[str, str]:
    """Write a settings file that adds the local model, at this port, to the operator's settings.

    Return the variables that name this file and the shipped catalogue.
    """
    where = runtime / "pollux.toml"
    folders.write_private(where, f"{operator.text}\n{catalogue.render(port)}".encode())
    return {"POLLUX_CONFIG": str(where), "POLLUX_CATALOGUE__PATH": str(catalogue.SHIPPED)}


def _parent_of_runtime() -> Path:
    """Return where the janitor creates its folder: a short path, since it will hold a socket."""
    temporary = Path(tempfile.gettempdir())
    if len(str(temporary)) <= _PARENT_CHARACTERS_MAX:
        return temporary
    return Path("/tmp")  # noqa: S108  only a private folder with a random name is created in it
