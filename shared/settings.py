"""Settings: what an operator may decide, from one TOML file and the environment.

Owns every table with its types, defaults and bounds, the meaning of `POLLUX_CONFIG`,
`POLLUX_<SECTION>__<NAME>` and `REDIS_URL`, and the checks between entries. Providers and models may
stand in a second file; where both name the same one, the settings' own entry counts. Unknown names
are refused, and all faults are reported at once, each with its path. Refuses to read the
environment by itself: the `__main__` modules and the command line pass it in.

Secrets are never values here, only the names of environment variables; `Secret` carries one that
was read, and never prints it.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta
from typing_extensions import override

from shared import egress, redis_url, search_settings, settings_loader
from shared.companions import COMPANIONS, CompanionSettings
from shared.errors import ConfigurationError
from shared.search_settings import SearchSettings
from shared.settings_types import (
    CatalogueName,
    HostOrNetwork,
    HttpUrl,
    Origin,
    Positive,
    Retention,
    Seconds,
    Section,
    Share,
)
from shared.tiers import LimitSettings

Durability = Literal["process", "fsync", "replica", "everysec", "none"]
Dialect = Literal["openai", "anthropic", "gemini"]
Capability = Literal[
    "vision", "tools", "web_search", "reasoning", "image_output", "audio_output", "json"
]
# What a request may say beside its messages, and not every model carries. `temperature_above_1` and
# `stop_blank` are values that some upstreams refuse.
RequestNeed = Literal[
    "temperature",
    "temperature_above_1",
    "top_p",
    "stop",
    "stop_blank",
    "tool_choice",
    "json_object",
    "json_schema",
]

_ENV_PREFIX = "POLLUX_"
# What is kept for an hour, the longest that a vendor offers, costs twice the input rate.
CACHE_WRITE_FACTOR_MAX = 2
# Not settings: the file itself, and what the command line reads for a caller.
_NOT_SETTINGS = {"POLLUX_CONFIG", "POLLUX_URL", "POLLUX_API_KEY"}


class Secret:
    """A secret that never appears in a repr, a str, a log or a traceback with locals."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret; call this only where it is sent."""
        return self._text

    @override
    def __repr__(self) -> str:
        return "Secret(...)"


class RedisSettings(Section, frozen=True, kw_only=True):
    """Where Redis is, and how durable it must be."""

    url: Annotated[str, Meta(pattern=r"^(rediss?|unix)://\S+$")] = "redis://127.0.0.1:6379/0"
    prefix: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,32}$")] = "pollux"
    partitions: Annotated[int, Meta(ge=1, le=64)] = 1
    # shared/redis/server_check.py says what each name guarantees.
    durability: Durability = "process"
    replica_seconds: Annotated[float, Meta(ge=0.001, le=60)] = 1.0  # WAIT 0 would never time out
    connect_seconds: Seconds = 2.0
    timeout_seconds: Seconds = 5.0


class ApiSettings(Section, frozen=True, kw_only=True):
    """Timeouts and bounds of an API process."""

    # Per process: open connections, and bytes of bodies that are still arriving.
    connections_max: Positive = 20_000
    bodies_bytes_max: Positive = 67_108_864
    body_bytes_max: Positive = 5_242_880
    body_seconds: Seconds = 30.0
    # Bodies of batches that this process takes at once, and of one account.
    uploads_max: Positive = 8
    uploads_per_account: Positive = 4
    header_bytes_max: Positive = 16_384
    header_seconds: Seconds = 10.0
    stuck_reader_seconds: Seconds = 30.0
    ping_seconds: Seconds = 10.0
    wait_seconds_max: Annotated[int, Meta(ge=1, le=300)] = 45
    # The least that every tier may do (shared/tiers.py has the limits of each tier).
    waits_per_account: Positive = 100
    reads_per_minute: Positive = 300
    # For each generation that is unfinished or ended within the last minute.
    reads_per_unfinished: Positive = 60
    # Origins of the pages whose scripts may call the API, as in https://app.example.org; `*` for
    # all.
    cors_origins: tuple[Origin, ...] = ()


class WorkerSettings(Section, frozen=True, kw_only=True):
    """How much a worker runs at once, and how it keeps what it has claimed."""

    concurrency: Annotated[int, Meta(ge=1, le=10_000)] = 16
    # The share of the slots that batches may hold; at least one slot.
    batch_share: Share = 0.75
    lease_seconds: Seconds = 2.0
    beat_seconds: Seconds = 0.5
    reap_seconds: Seconds = 0.08
    grace_seconds: Seconds = 20.0
    flush_seconds: Seconds = 0.05
    batch_flush_seconds: Seconds = 1.0
    crashes_max: Positive = 3


class RetentionSettings(Section, frozen=True, kw_only=True):
    """How long what has ended is kept; messages and sessions stay until they are deleted."""

    generation_seconds: Retention = 86_400
    events_seconds: Retention = 600
    idempotency_seconds: Retention = 86_400
    # Dead letters: how long they are kept, and how many in a partition at most.
    dead_seconds: Retention = 604_800
    dead_max: Positive = 100_000
    # Batches, from their end on.
    batch_seconds: Retention = 604_800
    # How far back an account's log of events reaches.
    log_seconds: Retention = 2_592_000


class ProviderSettings(Section, frozen=True, kw_only=True):
    """An upstream that serves models. `api_key_env` names the variable that holds its key.

    Its limits hold for all workers together; without limits it is called whenever there is work.
    The batch lane takes at most `batch_share` of `concurrency_max`. Once an answer has begun, the
    upstream may be silent for `idle_seconds`; a comment or a ping ends a silence.
    """

    name: CatalogueName
    label: str = ""
    dialect: Dialect = "openai"
    base_url: HttpUrl
    api_key_env: str | None = None
    connect_seconds: Seconds = 5.0
    idle_seconds: Seconds = 30.0
    concurrency_max: Positive | None = None
    requests_per_minute: Positive | None = None
    tokens_per_minute: Positive | None = None
    batch_share: Annotated[float, Meta(gt=0, le=1)] = 0.75

    @property
    def title(self) -> str:
        """The name that callers see."""
        return self.label or self.name

    @property
    def is_limited(self) -> bool:
        """Whether any limit is set."""
        return bool(self.concurrency_max or self.requests_per_minute or self.tokens_per_minute)


# Chat completions know `effort` and `enabled`, Anthropic `adaptive` and `budget`, Gemini `level`
# and `budget`.
ReasoningOption = Literal["none", "effort", "enabled", "adaptive", "budget", "level"]


class ModelRequestSettings(Section, frozen=True, kw_only=True):
    """How requests to a model differ from those to other models of its dialect.

    `limit_option` is the field that bounds the answer. `reasoning_option` is how deep thinking is
    asked for, with `reasoning_effort` where that takes a word, and "none" where the model always or
    never reasons. Where these two are not set, the model's name decides. `usage_option` is "always"
    where usage is reported without `stream_options`, which may be refused. `search_option` is the
    field that asks for a web search where chat completions have several. `refuses` is what the
    model does not carry although others of its dialect do. `cache_option` is whether
    Anthropic's API is asked to keep beginnings of requests in its cache, "breakpoints" for models
    named Claude unless it is set; shorter ones than `cache_tokens_min` are not kept.
    `documentation` is the vendor's page that says so, as read on `documentation_date`.
    """

    limit_option: Literal["max_tokens", "max_completion_tokens"] | None = None
    reasoning_option: ReasoningOption | None = None
    reasoning_effort: Annotated[str, Meta(pattern=r"^[a-z]+$")] = "high"
    usage_option: Literal["stream_options", "always"] = "stream_options"
    search_option: Literal["web_search_options", "plugins"] = "web_search_options"
    cache_option: Literal["breakpoints", "none"] | None = None
    cache_tokens_min: Positive = 1024
    refuses: tuple[RequestNeed, ...] = ()
    documentation: str = ""
    documentation_date: date | None = None


class ModelSettings(ModelRequestSettings, frozen=True, kw_only=True):
    """A model that callers name by `identifier`. Rates are US dollars per million tokens.

    `cached_input_rate` is for input tokens that the provider read from a cache, `cache_write_rate`
    for those that it wrote to one; where they are not set, `input_rate` holds.
    `rates_date` is the day on which the rates were looked up, if known. `search_rate` is US dollars
    per 1,000 searches of a model that searches the web by itself.

    The answer may begin after `first_token_seconds` as long as the upstream sends anything (a
    header, comments, pings, empty steps), but must not be silent for `silence_seconds`: if not set,
    60 s, or 180 s for a model that may think first.
    """

    identifier: CatalogueName
    provider: str
    upstream: str
    name: str = ""
    aliases: tuple[str, ...] = ()
    types: tuple[Literal["chat"], ...] = ("chat",)
    capabilities: tuple[Capability, ...] = ()
    context_window: Annotated[int, Meta(ge=256)] = 8192
    max_output_tokens: Annotated[int, Meta(ge=1)] = 2048
    input_rate: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    cached_input_rate: Annotated[float, Meta(ge=0, le=100_000)] | None = None
    cache_write_rate: Annotated[float, Meta(ge=0, le=100_000)] | None = None
    output_rate: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    search_rate: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    rates_date: date | None = None
    strengths: dict[str, Share] = msgspec.field(default_factory=dict)
    summary: str = ""
    recommended: bool = False
    estimated_duration_seconds: Annotated[float, Meta(gt=0)] = 5.0
    first_token_seconds: Seconds = 300.0
    silence_seconds: Seconds | None = None

    @property
    def title(self) -> str:
        """The name that callers see."""
        return self.name or self.identifier

    @property
    def makes_media(self) -> bool:
        """Whether it answers with more than text."""
        return not {"image_output", "audio_output"}.isdisjoint(self.capabilities)


class BreakerSettings(Section, frozen=True, kw_only=True):
    """When the whole fleet stops calling a provider's model for a while.

    That needs at least `failures_min` failures within the window, which are at least
    `failures_share` of its calls. The model then cools for `cooling_seconds`, twice as long after
    each probe that fails, up to `cooling_seconds_max`; one whose credentials are refused cools for
    `auth_cooling_seconds`.
    """

    failures_min: Annotated[int, Meta(ge=1, le=10_000)] = 5
    failures_share: Annotated[float, Meta(gt=0, le=1)] = 0.5
    window_seconds: Annotated[float, Meta(ge=1, le=3600)] = 30.0
    cooling_seconds: Annotated[float, Meta(ge=0.1, le=3600)] = 10.0
    cooling_seconds_max: Annotated[float, Meta(ge=0.1, le=3600)] = 300.0
    auth_cooling_seconds: Annotated[float, Meta(ge=0.1, le=86_400)] = 300.0


class RetrySettings(Section, frozen=True, kw_only=True):
    """How many calls of a provider may be retries, in each worker.

    That is a share of its first calls, and at least so many a minute.
    """

    share: Annotated[float, Meta(ge=0, le=1)] = 0.1
    per_minute_min: Annotated[int, Meta(ge=0, le=100_000)] = 10


class AuthSettings(Section, frozen=True, kw_only=True):
    """The variable that holds the pepper with which API keys are hashed."""

    pepper_env: str = "POLLUX_PEPPER"


class EnhancementSettings(Section, frozen=True, kw_only=True):
    """The model that rewords unclear messages, if any, and the time and tokens that it may take."""

    model: str | None = None
    seconds: Seconds = 3.0
    output_tokens_max: Positive = 512


class LogSettings(Section, frozen=True, kw_only=True):
    """The format and the level of the log."""

    format: Literal["json", "console"] = "json"
    level: Literal["debug", "info", "warning", "error"] = "info"


class MediaSettings(Section, frozen=True, kw_only=True):
    """Pictures that models look at, and media that models make, which are kept in `folder`.

    `fetch_seconds` is for each picture, `fetched_bytes_max` for all pictures of a message. A signed
    URL is valid for `url_seconds`, and the file is kept for `files_seconds`.
    """

    folder: Annotated[str, Meta(min_length=1)] = ".pollux/media"
    file_bytes_max: Positive = 10_485_760
    fetched_bytes_max: Positive = 20_971_520
    fetch_seconds: Seconds = 15.0
    url_seconds: Positive = 86_400
    files_seconds: Positive = 2_592_000


class EgressSettings(Section, frozen=True, kw_only=True):
    """Which URLs that callers or models name may be called, beyond public addresses.

    `allow` lists private networks and host names that are allowed all the same.
    """

    allow: tuple[HostOrNetwork, ...] = ()
    ports: tuple[Annotated[int, Meta(ge=1, le=65_535)], ...] = (80, 443, 8080, 8443)


class WebhookSettings(Section, frozen=True, kw_only=True):
    """How events are delivered to receivers.

    A receiver has `call_seconds` to answer, and a delivery is tried again for `give_up_seconds`. At
    most `calls_per_host` calls of an account are under way to one host, one while it fails, and
    `calls_max` in a worker. An account has at most `undelivered_max` deliveries under way; further
    events wait in its log. Its last `kept_max` deliveries are kept for `kept_seconds`. `public_url`
    is put before the paths in payloads: where callers reach the API.
    """

    public_url: HttpUrl | None = None
    call_seconds: Seconds = 10.0
    give_up_seconds: Annotated[int, Meta(ge=1, le=604_800)] = 86_400
    calls_per_host: Annotated[int, Meta(ge=1, le=64)] = 4
    calls_max: Annotated[int, Meta(ge=1, le=1_000)] = 64
    undelivered_max: Annotated[int, Meta(ge=1, le=10_000)] = 1_000
    kept_max: Annotated[int, Meta(ge=1, le=10_000)] = 2_000
    kept_seconds: Retention = 604_800


class CatalogueEntries(Section, frozen=True, kw_only=True):
    """The content of a catalogue file."""

    providers: tuple[ProviderSettings, ...] = ()
    models: tuple[ModelSettings, ...] = ()


class CatalogueSettings(Section, frozen=True, kw_only=True):
    """A file with more providers and models; its path is relative to the settings file's folder."""

    path: str | None = None


class Settings(Section, frozen=True, kw_only=True):
    """Everything that an operator decides. Routing prefers models in the order of the catalogue."""

    redis: RedisSettings = RedisSettings()
    api: ApiSettings = ApiSettings()
    worker: WorkerSettings = WorkerSettings()
    limits: LimitSettings = LimitSettings()
    retention: RetentionSettings = RetentionSettings()
    breaker: BreakerSettings = BreakerSettings()
    retries: RetrySettings = RetrySettings()
    auth: AuthSettings = AuthSettings()
    enhancement: EnhancementSettings = EnhancementSettings()
    log: LogSettings = LogSettings()
    search: SearchSettings = SearchSettings()
    catalogue: CatalogueSettings = CatalogueSettings()
    media: MediaSettings = MediaSettings()
    egress: EgressSettings = EgressSettings()
    webhooks: WebhookSettings = WebhookSettings()
    providers: tuple[ProviderSettings, ...] = ()
    models: tuple[ModelSettings, ...] = ()
    companions: tuple[CompanionSettings, ...] = COMPANIONS

    @classmethod
    def read(cls, environment: Mapping[str, str], *, folder: Path | None = None) -> Self:
        """Read the TOML file of `POLLUX_CONFIG`, or `pollux.toml` if present, then the environment.

        The catalogue file that `catalogue.path` names is read with it.

        Raises:
            ConfigurationError: with every fault found, each with its path.

        """
        faults: list[str] = []
        catalogue_faults: list[str] = []
        tree, catalogue_tree, catalogue = settings_loader.load_trees(
            environment, folder or Path.cwd(), faults
        )
        secrets = _secret_names(tree) | _secret_names(catalogue_tree)
        for name, text in environment.items():
            if name.startswith(_ENV_PREFIX) and name not in _NOT_SETTINGS | secrets:
                settings_loader.set_from_variable(cls, tree, name, text, faults, prefix=_ENV_PREFIX)
        if "REDIS_URL" in environment:
            settings_loader.table_of(tree, "redis", faults)["url"] = environment["REDIS_URL"]
        settings_loader.fill_defaults(cls, tree)
        settings_loader.check(cls, tree, "", faults)
        faults += redis_url.faults(tree.get("redis"))
        _check_heartbeat(tree, faults)
        _check_body(tree, faults)
        faults += search_settings.faults(tree.get("search")) + egress.faults(tree.get("egress"))
        settings_loader.check(CatalogueEntries, catalogue_tree, "", catalogue_faults)
        for each, fault_list in ((tree, faults), (catalogue_tree, catalogue_faults)):
            _check_entries(each, _names_of("providers", "name", tree, catalogue_tree), fault_list)
        _check_model_references(
            tree, _names_of("models", "identifier", tree, catalogue_tree), faults
        )
        faults += [f"{catalogue}: {fault}" for fault in catalogue_faults]
        if faults:
            raise ConfigurationError(faults)
        settings = msgspec.convert(tree, cls, strict=False)
        return settings.with_catalogue(
            msgspec.convert(catalogue_tree, CatalogueEntries, strict=False)
        )

    def with_catalogue(self, entries: CatalogueEntries) -> Self:
        """Return the settings with a catalogue's entries added; an entry of the same name stays."""
        providers = {provider.name for provider in self.providers}
        models = {model.identifier for model in self.models}
        return msgspec.structs.replace(
            self,
            providers=(
                *self.providers,
                *(each for each in entries.providers if each.name not in providers),
            ),
            models=(
                *self.models,
                *(each for each in entries.models if each.identifier not in models),
            ),
        )

    def companion(self, name: str) -> CompanionSettings | None:
        """Return the companion of that type, or None."""
        return next((each for each in self.companions if each.type == name), None)


def _secret_names(tree: Mapping[str, Any]) -> set[str]:
    """Return the variables that settings only name: the pepper's and those of API keys."""
    tables = [tree.get("auth"), tree.get("search"), *settings_loader.entries(tree, "providers")]
    named = (
        table.get(field)
        for table in tables
        if isinstance(table, dict)
        for field in ("pepper_env", "api_key_env")
    )
    return {AuthSettings().pepper_env, *(name for name in named if isinstance(name, str))}


def _check_heartbeat(tree: settings_loader.Tree, faults: list[str]) -> None:
    """Refuse leases that lapse between two heartbeats, which would end every attempt."""
    with suppress(msgspec.ValidationError):
        worker = msgspec.convert(tree.get("worker", {}), WorkerSettings, strict=False)
        if worker.beat_seconds > worker.lease_seconds / 2:
            faults.append("worker.beat_seconds: must be at most half of worker.lease_seconds")


def _check_body(tree: settings_loader.Tree, faults: list[str]) -> None:
    """Refuse a body limit under which a message of the allowed length may not fit."""
    with suppress(msgspec.ValidationError):
        api = msgspec.convert(tree.get("api", {}), ApiSettings, strict=False)
        limits = msgspec.convert(tree.get("limits", {}), LimitSettings, strict=False)
        needed = limits.submission_bytes_max
        if api.body_bytes_max < needed:
            faults.append(
                f"api.body_bytes_max: must be at least {needed}, so that a message and a system "
                f"prompt of {limits.message_characters_max} characters "
                "(limits.message_characters_max) fit however JSON escapes them"
            )


def _check_entries(tree: settings_loader.Tree, providers: set[str], faults: list[str]) -> None:
    """Check that the readable providers and models of a file are consistent."""
    names = [
        each.name
        for each in settings_loader.readable_entries(tree, "providers", ProviderSettings).values()
    ]
    models = settings_loader.readable_entries(tree, "models", ModelSettings)
    faults.extend(f"providers: {name} is defined twice" for name in _duplicates(names))
    model_names = [word for model in models.values() for word in (model.identifier, *model.aliases)]
    faults.extend(f"models: {name} is defined twice" for name in _duplicates(model_names))
    for index, model in models.items():
        if model.provider not in providers:
            faults.append(f"models[{index}].provider: no provider is named {model.provider}")
        if model.max_output_tokens >= model.context_window:
            faults.append(f"models[{index}].max_output_tokens: must be below the context window")
        if "auto" in (model.identifier, *model.aliases):
            faults.append(f"models[{index}]: `auto` is reserved for Smart Select")
        faults.extend(f"models[{index}].{fault}" for fault in _cache_rate_faults(model))


def _cache_rate_faults(model: ModelSettings) -> list[str]:
    """Return what is implausible in a model's rates for cached tokens, which only save money."""
    faults = []
    if (model.cached_input_rate or 0) > model.input_rate:
        faults.append("cached_input_rate: must not exceed the input rate")
    if (model.cache_write_rate or 0) > model.input_rate * CACHE_WRITE_FACTOR_MAX:
        faults.append(
            f"cache_write_rate: must be at most {CACHE_WRITE_FACTOR_MAX} times the input rate"
        )
    return faults


def _check_model_references(
    tree: settings_loader.Tree, models: set[str], faults: list[str]
) -> None:
    """Check references to models outside the catalogue: rewording and companions."""
    section = tree.get("enhancement")
    rewording_model = section.get("model") if isinstance(section, dict) else None
    # Without any model, `pollux up` adds its own and reads the settings again.
    if isinstance(rewording_model, str) and models and rewording_model not in models:
        faults.append(f"enhancement.model: no model is named {rewording_model}")
    companions = settings_loader.readable_entries(tree, "companions", CompanionSettings)
    types = [companion.type for companion in companions.values()]
    faults.extend(f"companions: {name} is defined twice" for name in _duplicates(types))
    for index, companion in companions.items():
        if companion.model is not None and companion.model not in models:
            faults.append(f"companions[{index}].model: no model is named {companion.model}")


def _names_of(kind: str, field: str, *trees: settings_loader.Tree) -> set[str]:
    """Return the names of all entries of a kind, faulty ones included."""
    entries = [entry for tree in trees for entry in settings_loader.entries(tree, kind)]
    return {str(entry[field]) for entry in entries if isinstance(entry, dict) and field in entry}


def _duplicates(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})
