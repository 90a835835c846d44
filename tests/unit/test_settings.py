"""Settings: a file, then the environment, and every fault reported at once with its path."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from shared.catalogue import Catalogue
from shared.errors import ConfigurationError
from shared.settings import Secret, Settings
from shared.settings_types import Section

CATALOGUE = """
[[providers]]
name = "local"
base_url = "http://127.0.0.1:9/v1"
api_key_env = "POLLUX_LOCAL_KEY"

[[models]]
identifier = "small"
provider = "local"
upstream = "small-1"
aliases = ["tiny"]
"""


def settings_of(tmp_path: Path, text: str = "", **environment: str) -> Settings:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    return Settings.read({"POLLUX_CONFIG": str(file), **environment})


def faults_of(tmp_path: Path, text: str = "", **environment: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        settings_of(tmp_path, text, **environment)
    return caught.value.faults


def test_without_any_input_the_defaults_apply(tmp_path: Path) -> None:
    assert Settings.read({}, folder=tmp_path) == Settings()


def test_file_of_the_folder_is_read_when_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "pollux.toml").write_text("[redis]\npartitions = 3\n")
    assert Settings.read({}, folder=tmp_path).redis.partitions == 3


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    read = settings_of(
        tmp_path,
        "[redis]\npartitions = 3\nprefix = 'mine'\n[worker]\nconcurrency = 4\n",
        POLLUX_REDIS__PARTITIONS="5",
        POLLUX_WORKER__LEASE_SECONDS="1.5",
        POLLUX_LIMITS__FREE__SUBMISSIONS_PER_MINUTE="7",
        POLLUX_LOG__LEVEL="debug",
        REDIS_URL="redis://elsewhere:1/2",
    )
    assert (read.redis.partitions, read.redis.prefix) == (5, "mine")
    assert (read.worker.concurrency, read.worker.lease_seconds) == (4, 1.5)
    assert read.limits.free.submissions_per_minute == 7
    assert read.log.level == "debug"
    assert read.redis.url == "redis://elsewhere:1/2"


def test_catalogue_is_read_in_its_order(tmp_path: Path) -> None:
    read = settings_of(
        tmp_path,
        CATALOGUE + CATALOGUE.replace('"small"', '"other"').split("\n\n")[1].replace("tiny", "wee"),
    )
    assert [model.identifier for model in read.models] == ["small", "other"]
    assert Catalogue.of(read).provider_of(read.models[1]).base_url == "http://127.0.0.1:9/v1"


def test_limits_of_providers_and_breakers_have_bounds(tmp_path: Path) -> None:
    limited = CATALOGUE.replace('api_key_env = "POLLUX_LOCAL_KEY"', "concurrency_max = 4")
    read = settings_of(tmp_path, limited, POLLUX_BREAKER__COOLING_SECONDS="2.5")
    assert read.providers[0].is_limited
    assert not settings_of(tmp_path, CATALOGUE).providers[0].is_limited
    assert read.breaker.cooling_seconds == 2.5
    faulty = limited.replace("concurrency_max = 4", "tokens_per_minute = 0\nbatch_share = 1.5")
    found = faults_of(
        tmp_path, faulty, POLLUX_BREAKER__FAILURES_SHARE="0", POLLUX_RETRIES__SHARE="2"
    )
    assert sorted(fault.split(":")[0] for fault in found) == [
        "breaker.failures_share",
        "providers[0].batch_share",
        "providers[0].tokens_per_minute",
        "retries.share",
    ]


def test_variables_that_hold_secrets_are_no_settings(tmp_path: Path) -> None:
    assert settings_of(tmp_path, CATALOGUE, POLLUX_LOCAL_KEY="k", POLLUX_PEPPER="p").models
    assert settings_of(tmp_path, '[auth]\npepper_env = "POLLUX_SALT"', POLLUX_SALT="s")


def test_all_faults_are_reported_at_once_with_their_paths(tmp_path: Path) -> None:
    found = faults_of(
        tmp_path,
        """
        unknown = 1
        [redis]
        partitions = 0
        durability = "hope"
        [worker]
        concurency = 3
        [limits.free]
        submissions_per_minute = "many"
        [[providers]]
        name = "local"
        base_url = "ftp://x"
        [[models]]
        identifier = "small"
        upstream = "x"
        context_window = 1
        """,
        POLLUX_API__BODY_BYTES_MAX="-1",
        POLLUX_NONSENSE="1",
        POLLUX_REDIS__NONSENSE="1",
    )
    paths = sorted(fault.split(":")[0] for fault in found)
    assert paths == [
        "POLLUX_NONSENSE",
        "POLLUX_REDIS__NONSENSE",
        "api.body_bytes_max",
        "limits.free.submissions_per_minute",
        "models[0].context_window",
        "models[0].provider",
        "providers[0].base_url",
        "redis.durability",
        "redis.partitions",
        "unknown",
        "worker.concurency",
    ]
    assert not [fault for fault in found if " at `$" in fault]


@pytest.mark.parametrize(
    ("lease", "beat", "is_sound"), [(None, "1.0", True), (None, "1.1", False), ("0.9", None, False)]
)
def test_a_lease_outlasts_two_heartbeats(
    tmp_path: Path, lease: str | None, beat: str | None, *, is_sound: bool
) -> None:
    named = {"POLLUX_WORKER__LEASE_SECONDS": lease, "POLLUX_WORKER__BEAT_SECONDS": beat}
    environment = {name: text for name, text in named.items() if text is not None}
    if is_sound:
        assert Settings.read(environment, folder=tmp_path)
        return
    with pytest.raises(ConfigurationError, match=r"worker\.beat_seconds: must be at most half"):
        Settings.read(environment, folder=tmp_path)


def test_retention_fits_redis_milliseconds(tmp_path: Path) -> None:
    for name in ("GENERATION", "EVENTS", "IDEMPOTENCY", "DEAD"):
        with pytest.raises(ConfigurationError, match=rf"retention\.{name.lower()}_seconds"):
            Settings.read({f"POLLUX_RETENTION__{name}_SECONDS": f"{10**16}"}, folder=tmp_path)


def test_integers_are_exact_in_lua(tmp_path: Path) -> None:
    most = 2**53 - 1
    found = Settings.read({"POLLUX_LIMITS__FREE__STORED_BYTES_MAX": str(most)}, folder=tmp_path)
    assert found.limits.free.stored_bytes_max == most
    for name in ("LIMITS__FREE__STORED_BYTES_MAX", "LIMITS__PRO__UNFINISHED_MAX"):
        for more in (most + 1, 10**30):
            [fault] = faults_of(tmp_path, **{f"POLLUX_{name}": str(more)})
            assert fault == f"{name.lower().replace('__', '.')}: expected `int` <= {most}"


def test_an_inconsistent_catalogue_is_a_fault(tmp_path: Path) -> None:
    model = '[[models]]\nidentifier = "{}"\nprovider = "{}"\nupstream = "x"\n{}\n'
    found = faults_of(
        tmp_path,
        CATALOGUE
        + model.format("tiny", "nobody", "")
        + model.format("auto", "local", "")
        + model.format("wide", "local", "context_window = 300\nmax_output_tokens = 300")
        + model.format("dear", "local", "input_rate = 1.0\ncached_input_rate = 1.1")
        + model.format("odd", "local", "input_rate = 1.0\ncache_write_rate = 2.1"),
    )
    assert found == [
        "models: tiny is defined twice",
        "models[1].provider: no provider is named nobody",
        "models[2]: `auto` is reserved for Smart Select",
        "models[3].max_output_tokens: must be below the context window",
        "models[4].cached_input_rate: must not exceed the input rate",
        "models[5].cache_write_rate: must be at most 2 times the input rate",
    ]


def test_companions_ship_and_may_be_replaced(tmp_path: Path) -> None:
    shipped = Settings().companions
    assert [each.type for each in shipped] == ["smart-home", "devops", "personal", "work"]
    assert all(each.persona and each.description and each.model is None for each in shipped)
    companion = '[[companions]]\ntype = "{}"\nname = "N"\npersona = "P"\n{}\n'
    read = settings_of(tmp_path, CATALOGUE + companion.format("poet", 'model = "small"'))
    assert [(each.type, each.model) for each in read.companions] == [("poet", "small")]
    assert read.companion("poet") == read.companions[0]
    assert read.companion("work") is None
    assert settings_of(tmp_path, "companions = []").companions == ()


def test_model_that_rewords_must_be_in_the_catalogue(tmp_path: Path) -> None:
    read = settings_of(tmp_path, CATALOGUE, POLLUX_ENHANCEMENT__MODEL="small")
    assert (read.enhancement.model, read.enhancement.seconds) == ("small", 3.0)
    # Who names none at all is brought some, and reads again.
    assert settings_of(tmp_path, POLLUX_ENHANCEMENT__MODEL="small").enhancement.model == "small"
    said = "[enhancement]\nmodel = 'gone'\nseconds = 0\n"
    assert faults_of(tmp_path, said + CATALOGUE) == [
        "enhancement.seconds: expected `float` > 0.0",
        "enhancement.model: no model is named gone",
    ]


def test_inconsistent_companions_are_a_fault(tmp_path: Path) -> None:
    companion = '[[companions]]\ntype = "{}"\nname = "N"\npersona = "P"\n{}\n'
    found = faults_of(
        tmp_path,
        CATALOGUE
        + companion.format("poet", 'model = "tiny"')
        + companion.format("poet", 'model = "small"'),
    )
    assert found == [
        "companions: poet is defined twice",
        "companions[0].model: no model is named tiny",
    ]
    found = faults_of(
        tmp_path,
        companion.format("a b", "")
        + companion.format("b", 'memory_layers = ["dreams"]')
        + companion.format("c", 'mood = "good"'),
    )
    assert sorted(fault.split(":")[0] for fault in found) == [
        "companions[0].type",
        "companions[1].memory_layers",
        "companions[2].mood",
    ]


@pytest.mark.parametrize("text", ["[redis", "redis = 1\n[redis]", "\udcff"])
def test_file_that_is_not_toml_is_one_clear_fault(tmp_path: Path, text: str) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        Settings.read({"POLLUX_CONFIG": str(file)})


def test_a_named_file_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Settings.read({"POLLUX_CONFIG": str(tmp_path / "nowhere.toml")})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Settings.read({"POLLUX_CONFIG": str(tmp_path)})


@pytest.mark.parametrize("wrong", ["redis = 3", "providers = 3", "[models]\nx = 1", "redis = []"])
def test_wrong_shapes_are_faults(tmp_path: Path, wrong: str) -> None:
    assert faults_of(tmp_path, wrong)
    assert faults_of(tmp_path, wrong, POLLUX_REDIS__PARTITIONS="0")


def test_settings_are_frozen_and_closed() -> None:
    def sections(shape: type[Section]) -> Iterator[type[Section]]:
        yield shape
        for field in msgspec.structs.fields(shape):
            if isinstance(field.type, type) and issubclass(field.type, Section):
                yield from sections(field.type)

    for section in sections(Settings):
        config = section.__struct_config__
        assert config.frozen, section
        assert config.forbid_unknown_fields, section


def test_every_setting_has_a_default_but_for_the_catalogue() -> None:
    assert msgspec.convert({}, Settings) == Settings()


def test_a_secret_is_never_printed() -> None:
    secret = Secret("hush")
    assert secret.reveal() == "hush"
    shown = f"{secret} {secret!r} {[secret]} {vars(type(secret))}"
    assert "hush" not in shown
    assert not hasattr(secret, "__dict__")


def test_variables_of_the_command_line_are_no_settings(tmp_path: Path) -> None:
    read = settings_of(tmp_path, POLLUX_URL="http://127.0.0.1:8000", POLLUX_API_KEY="a-key")
    assert read == Settings()


_MORE = """
[[providers]]
name = "local"
base_url = "http://127.0.0.1:1/v1"

[[providers]]
name = "far"
base_url = "http://127.0.0.1:2/v1"
api_key_env = "POLLUX_FAR_KEY"

[[models]]
identifier = "small"
provider = "far"
upstream = "theirs"

[[models]]
identifier = "tiny"
provider = "far"
upstream = "tiny-1"
rates_date = 2026-11-22

[[models]]
identifier = "near"
provider = "local"
upstream = "near-1"
"""


def _with_catalogue(tmp_path: Path, more: str, text: str = CATALOGUE) -> str:
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "catalog.toml").write_text(more)
    return f'[catalogue]\npath = "more/catalog.toml"\n{text}'


def test_a_catalogue_s_entries_come_after_the_settings_own(tmp_path: Path) -> None:
    read = settings_of(tmp_path, _with_catalogue(tmp_path, _MORE), POLLUX_FAR_KEY="k")
    assert [(model.identifier, model.upstream) for model in read.models] == [
        ("small", "small-1"),
        ("tiny", "tiny-1"),
        ("near", "near-1"),
    ]
    assert [(each.name, each.base_url[-4]) for each in read.providers] == [
        ("local", "9"),
        ("far", "2"),
    ]
    assert str(read.models[1].rates_date) == "2026-11-22"


def test_a_variable_may_name_another_catalogue(tmp_path: Path) -> None:
    text = _with_catalogue(tmp_path, _MORE)
    (tmp_path / "none.toml").write_text("")
    assert len(settings_of(tmp_path, text, POLLUX_CATALOGUE__PATH="none.toml").models) == 1
    away = Settings.read({"POLLUX_CATALOGUE__PATH": "more/catalog.toml"}, folder=tmp_path)
    assert len(away.models) == 3


def test_one_fault_hides_no_other(tmp_path: Path) -> None:
    model = '[[models]]\nidentifier = "{}"\nprovider = "{}"\nupstream = "x"\n{}\n'
    companion = '[[companions]]\ntype = "poet"\nname = "N"\npersona = "P"\nmodel = "{}"\n'
    found = faults_of(
        tmp_path,
        CATALOGUE.replace("http:", "ftp:")
        + model.format("tiny", "local", "")
        + model.format("odd", "nobody", "context_window = 1")
        + model.format("lost", "nobody", "")
        + companion.format("odd")
        + companion.format("absent").replace("poet", "seer"),
    )
    assert [fault.split(":")[0] for fault in found] == [
        "providers[0].base_url",
        "models[2].context_window",
        "models",
        "models[3].provider",
        "companions[1].model",
    ]


def test_faults_of_a_catalogue_are_reported_with_its_path(tmp_path: Path) -> None:
    faulty = _MORE.replace('"near-1"', '"near-1"\ncontext_window = 1\nlimits = 1')
    where = tmp_path / "more" / "catalog.toml"
    found = faults_of(tmp_path, _with_catalogue(tmp_path, faulty), POLLUX_REDIS__PARTITIONS="0")
    assert [fault.rsplit(":", 1)[0] for fault in found] == [
        "redis.partitions",
        f"{where}: models[2].context_window",
        f"{where}: models[2].limits",
    ]
    where.write_text(
        _MORE.replace('"near"', '"tiny"').replace('provider = "local"', 'provider = "no"')
    )
    text = '[catalogue]\npath = "more/catalog.toml"\n'
    assert faults_of(tmp_path, text) == [
        f"{where}: models: tiny is defined twice",
        f"{where}: models[2].provider: no provider is named no",
    ]
    where.write_text("[redis]\npartitions = 3\n")
    assert faults_of(tmp_path, text) == [f"{where}: redis: unknown setting"]
    where.unlink()
    assert faults_of(tmp_path, text) == [f"{where}: cannot be read: No such file or directory"]
    assert faults_of(tmp_path, "[catalogue]\npath = 3\n") == [
        "catalogue.path: expected `str | null`, got `int`"
    ]


def test_a_companion_may_use_a_model_of_the_catalogue(tmp_path: Path) -> None:
    companion = '[[companions]]\ntype = "poet"\nname = "N"\npersona = "P"\nmodel = "{}"\n'
    text = _with_catalogue(tmp_path, _MORE, companion.format("near"))
    assert settings_of(tmp_path, text).companions[0].model == "near"
    assert faults_of(tmp_path, text.replace('"near"', '"far"')) == [
        "companions[0].model: no model is named far"
    ]
