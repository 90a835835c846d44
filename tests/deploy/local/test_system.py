"""`pollux up` and `pollux demo` as commands, with real processes and a scripted provider."""

import re
import signal
from pathlib import Path

import httpx
import pytest

from deploy.local import network, state_folder
from shared.redis import library
from tests.support import command, waiting
from tests.support.command import Command
from tests.support.redis_server import Server
from tests.support.scripted_provider import ScriptedProvider

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def environment(short_folder: Path, provider: ScriptedProvider) -> dict[str, str]:
    """Return settings that name one model, of the scripted provider."""
    where = short_folder / "settings.toml"
    where.write_text(f"""
        [[providers]]
        name = "scripted"
        base_url = "{provider.url}"

        [[models]]
        identifier = "alpha"
        provider = "scripted"
        upstream = "alpha"
        capabilities = ["image_output"]
        estimated_duration_seconds = 0.1
    """)
    return {"POLLUX_CONFIG": str(where)}


async def _address(up: Command) -> tuple[str, str]:
    """Return the URL and the key that `up` prints."""
    url = re.search(r"http://\S+", await up.wait_for_line("Pollux is up at"))
    key = (await up.wait_for_line("API key:")).split()[-1]
    await up.wait_for_line("/openapi.json")
    assert url is not None
    return url[0], key


async def test_up_keeps_key_and_messages_across_a_restart(
    short_folder: Path, environment: dict[str, str]
) -> None:
    port = network.free_port("127.0.0.1", None)
    command_line = ("up", "--port", str(port), "--workers", "1")
    async with command.running(*command_line, cwd=short_folder, environment=environment) as up:
        url, key = await _address(up)
        here = state_folder.running_environment_of(short_folder / ".pollux")
        assert (here["POLLUX_URL"], here["POLLUX_API_KEY"]) == (url, key)
        async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}) as http:
            receipt = (await http.post("/api/v1/chat", json={"message": "Hello"})).json()
            status = (await http.get(f"{receipt['poll_url']}?wait=30")).json()
        assert status["result"]["content"] == "You said: Hello"
        assert "deploy.local.model" not in up.children()
        assert (short_folder / ".pollux" / "media").is_dir()
        arguments = ("ask", "And now?", "-s", receipt["session_id"])
        async with command.running(*arguments, cwd=short_folder, environment=environment) as ask:
            assert await ask.wait_until_ended() == 0
            assert "You said: And now?" in ask.text
        async with command.running(
            "keys", "list", cwd=short_folder, environment=environment
        ) as keys:
            assert await keys.wait_until_ended() == 0
            assert "account=dev" in keys.text
        up.send(signal.SIGINT)
        assert await up.wait_until_ended() == 0
        assert "Pollux has stopped." in up.text
        assert up.left() == []

    async with command.running(*command_line, cwd=short_folder, environment=environment) as up:
        assert await _address(up) == (url, key)
        async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}) as http:
            path = f"/api/v1/chat/conversations/{receipt['session_id']}/messages"
            contents = [message["content"] for message in (await http.get(path)).json()["messages"]]
        assert contents == ["Hello", "You said: Hello", "And now?", "You said: And now?"]
        up.send(signal.SIGKILL)
        await up.wait_until_gone()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
async def test_a_stopped_demo_leaves_nothing(
    short_folder: Path, environment: dict[str, str], signum: signal.Signals
) -> None:
    async with command.running("demo", cwd=short_folder, environment=environment) as demo:
        await demo.wait_for_line("poll_interval_hint")
        demo.send(signum)
        assert await demo.wait_until_ended() == 128 + signum
        assert demo.left() == []
        assert "Traceback" not in demo.text


async def test_a_demo_survives_the_death_of_any_process(
    short_folder: Path, environment: dict[str, str]
) -> None:
    async with command.running("demo", cwd=short_folder, environment=environment) as demo:
        await demo.wait_for_line("Pollux is up")
        for child in ("deploy.local.janitor", "api", "valkey-server"):
            demo.kill(child)
        assert await demo.wait_until_ended() == 0, demo.text
        assert "You said: Name one thing" in demo.text
        assert demo.left() == []


@pytest.mark.parametrize("signum", [None, signal.SIGKILL])
async def test_a_demo_leaves_no_key_in_the_operators_redis(
    short_folder: Path, environment: dict[str, str], signum: signal.Signals | None
) -> None:
    with Server() as server, server.raw_client() as raw_client:
        raw_client("SET", "somebody's", "own")
        on_redis = {**environment, "REDIS_URL": server.url}
        async with command.running("demo", cwd=short_folder, environment=on_redis) as demo:
            await demo.wait_for_line("poll_interval_hint")
            assert "valkey-server" not in demo.children()
            assert len(raw_client.names("*")) > 1
            if signum is not None:
                demo.send(signum)
            await demo.wait_until_ended()
            await demo.wait_until_gone()
        assert raw_client.names("*") == ["somebody's"]
        assert raw_client("FUNCTION", "LIST", "LIBRARYNAME", library.NAME) == []


@pytest.fixture
def keyless(environment: dict[str, str]) -> dict[str, str]:
    """Return the same settings, with a provider whose key is not set."""
    where = Path(environment["POLLUX_CONFIG"])
    text = where.read_text().replace("base_url", 'api_key_env = "NOBODYS_KEY"\n        base_url')
    where.write_text(text)
    return environment


async def test_a_demo_without_an_available_model_says_so(
    short_folder: Path, keyless: dict[str, str]
) -> None:
    async with command.running("demo", cwd=short_folder, environment=keyless) as demo:
        assert await demo.wait_until_ended() == 1
        assert "pollux: No worker can serve a model" in demo.text
        assert demo.left() == []


def _replace_in(settings: str, old: str, new: str) -> None:
    where = Path(settings)
    where.write_text(where.read_text().replace(old, new, 1))


async def test_up_reloads_the_catalogue_at_sighup(
    short_folder: Path, environment: dict[str, str]
) -> None:
    port = network.free_port("127.0.0.1", None)
    command_line = ("up", "--port", str(port), "--workers", "1")
    settings = environment["POLLUX_CONFIG"]
    async with command.running(*command_line, cwd=short_folder, environment=environment) as up:
        url, key = await _address(up)
        _replace_in(settings, "[[models]]", "[[models")
        up.send(signal.SIGHUP)
        await up.wait_for_line("The catalogue is not reloaded")
        await up.wait_for_line(f"{settings}: not valid TOML")
        _replace_in(settings, "[[models", '[[models]]\n        name = "Omega"')
        up.send(signal.SIGHUP)
        await up.wait_for_line("The catalogue is reloaded.")
        async with httpx.AsyncClient(base_url=url, headers={"X-API-Key": key}) as http:

            async def is_renamed() -> bool:
                listed = (await http.get("/api/v1/models")).json()["models"]
                return [each["name"] for each in listed] == ["Omega"]

            await waiting.until(is_renamed, what="the new name")
            receipt = (await http.post("/api/v1/chat", json={"message": "Hello"})).json()
            status = (await http.get(f"{receipt['poll_url']}?wait=30")).json()
        assert status["result"]["content"] == "You said: Hello"
        up.send(signal.SIGINT)
        assert await up.wait_until_ended() == 0
        assert up.left() == []
