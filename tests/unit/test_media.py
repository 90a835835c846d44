"""Media: formats by first bytes, files named by content, signed URLs, the sweep."""

import io
import os
import stat
import wave
from pathlib import Path

import pytest

from shared.clock import SystemClock
from shared.media import formats
from shared.media.files import MediaFiles
from shared.media.formats import JPEG, PNG, WAV
from shared.media.url_signing import UrlSigner
from shared.wire.message import Media
from tests.support.clocks import AdjustableClock

_PNG = b"\x89PNG\r\n\x1a\n" + bytes(40)
_DAY = 86_400


# Kinds


@pytest.mark.parametrize(
    ("content", "suffix"),
    [
        (_PNG, "png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "jpg"),
        (b"GIF89a\1\0", "gif"),
        (b"GIF87a\1\0", "gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "webp"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "wav"),
        (b"ID3\4\0", "mp3"),
        (b"\xff\xfb\x90\0", "mp3"),
        (b"OggS\0\2", "ogg"),
        (b"fLaC\0\0", "flac"),
    ],
)
def test_a_format_is_detected_by_its_first_bytes(content: bytes, suffix: str) -> None:
    media_format = formats.detect_format(content)
    assert media_format is not None
    assert media_format.suffix == suffix


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\x89PNG", b"GIF88a", b"RIFF\x24\0\0\0AVI LIST", b"<svg/>", b"<html>"),
        *(b"\0" + _PNG, b"%PDF-1.7", b"\xff\xd8", b"BM", b"\x1f\x8b\x08"),
    ],
)
def test_other_content_has_no_format(content: bytes) -> None:
    assert formats.detect_format(content) is None


def test_samples_become_a_readable_wav_file() -> None:
    samples = bytes(range(200))
    made = formats.wav(samples, 24_000)
    with wave.open(io.BytesIO(made)) as read:
        assert (read.getnchannels(), read.getsampwidth(), read.getframerate()) == (1, 2, 24_000)
        assert read.readframes(1_000) == samples
    assert formats.detect_format(made) is WAV
    assert formats.wav(made, 8_000) == made


# Files


def test_the_same_content_is_one_file_of_its_session(tmp_path: Path) -> None:
    files = MediaFiles(str(tmp_path / "media"))
    path = files.save("ann", "s1", _PNG, PNG)
    assert files.save("ann", "s1", _PNG, PNG) == path
    assert files.save("ann", "s2", _PNG, PNG) != path
    found = files.find(path)
    assert found is not None
    assert (found[0].read_bytes(), found[1]) == (_PNG, PNG)
    assert found[0].stat().st_mode & 0o777 == 0o600
    assert len(list((tmp_path / "media").glob("*/*/*"))) == 2


@pytest.mark.parametrize(
    "path",
    [
        *("", "/media/", "/media/ann", "/media/ann/s1/", "/media/ann/s1/x.png"),
        *("/media/../s1/{name}", "/media/ann/../{name}", "/media/ann/s1/../{name}"),
        *("/media/ann//{name}", "//media/ann/s1/{name}", "/media/ann/s1/{name}/", "/x/a/s/{name}"),
        *("/media/ann/s1/{name}\n", "/media/ann\0/s1/{name}", "/media/ann/s1/" + "a" * 64 + ".exe"),
    ],
)
def test_no_other_name_is_a_file(tmp_path: Path, path: str) -> None:
    files = MediaFiles(str(tmp_path / "media"))
    name = files.save("ann", "s1", _PNG, PNG).rpartition("/")[2]
    assert files.find(path.replace("{name}", name)) is None


def test_deleting_a_session_deletes_only_its_files(tmp_path: Path) -> None:
    files = MediaFiles(str(tmp_path))
    kept = [files.save(account, "s1", _PNG, PNG) for account in ("ann", "bob")]
    files.delete_session("ann", "s1")
    files.delete_session("ann", "s1")
    files.delete_session("ann", "..")
    found = [files.find(path) for path in kept]
    assert [each is not None and each[0].exists() for each in found] == [False, True]
    assert not (tmp_path / "ann").exists()


def test_sweep_deletes_old_files_and_those_that_dead_writers_left(tmp_path: Path) -> None:
    files, now = MediaFiles(str(tmp_path)), 1_000_000_000.0
    ages = {
        files.save("ann", "s1", _PNG, PNG): 40 * _DAY,
        files.save("ann", "s2", _PNG, PNG): 10 * _DAY,
    }
    for path, age in ages.items():
        found = files.find(path)
        assert found is not None
        os.utime(found[0], (now - age, now - age))
    strangers = {tmp_path / "ann/s2/old.new": 7_200, tmp_path / "ann/s2/young.new": 60}
    strangers |= {tmp_path / "ann/s2/readme.txt": 90 * _DAY, tmp_path / "top.new": 7_200}
    for stranger, age in strangers.items():
        stranger.write_bytes(b"")
        os.utime(stranger, (now - age, now - age))
    assert files.sweep(now, 30 * _DAY) == 3
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    young = list(ages)[1].rpartition("/")[2]
    assert left == {young, "young.new", "readme.txt"}
    assert not (tmp_path / "ann/s1").exists()


def test_saving_again_resets_the_age(tmp_path: Path) -> None:
    files = MediaFiles(str(tmp_path))
    found = files.find(files.save("ann", "s1", _PNG, PNG))
    assert found is not None
    os.utime(found[0], (1, 1))
    files.save("ann", "s1", _PNG, PNG)
    assert files.sweep(found[0].stat().st_mtime + 10, 3_600) == 0


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    files = MediaFiles(str(tmp_path / "file" / "media"))
    with pytest.raises(OSError, match="Not a directory"):
        files.check()
    with pytest.raises(OSError, match="Not a directory"):
        files.save("ann", "s1", _PNG, JPEG)


# URLs


def _parts(url: str) -> tuple[str, str, str]:
    path, _, query = url.partition("?expires=")
    expires, _, signature = query.partition("&signature=")
    return path, expires, signature


def test_a_url_is_valid_until_it_expires() -> None:
    clock = AdjustableClock()
    url_signer = UrlSigner(b"secret", clock, _DAY)
    url = url_signer.url("/media/a/s/x.png")
    left = url_signer.seconds_left(*_parts(url))
    assert left is not None
    assert _DAY <= left <= _DAY * 25 // 24
    clock.advance(left - 1)
    assert url_signer.seconds_left(*_parts(url)) in {1, 2}
    clock.advance(2)
    assert url_signer.seconds_left(*_parts(url)) is None


def test_a_url_may_be_signed_for_longer() -> None:
    url_signer = UrlSigner(b"secret", SystemClock(), 60)
    left = url_signer.seconds_left(*_parts(url_signer.url("/media/a/s/x.png", seconds_min=1_000.5)))
    assert left is not None
    assert left >= 1_000


def test_a_changed_url_is_refused() -> None:
    url_signer = UrlSigner(b"secret", SystemClock(), _DAY)
    path, expires, signature = _parts(url_signer.url("/media/a/s/x.png"))
    assert url_signer.seconds_left(path, expires, signature)
    for changed in (
        ("/media/b/s/x.png", expires, signature),
        (path, str(int(expires) + 1), signature),
        (path, f"0{expires}", signature),
        (path, f"{expires} ", signature),
        (path, expires, signature.upper()),
        (path, expires, signature[:-1]),
        (path, expires, signature[:-1] + ("0" if signature[-1] != "0" else "1")),
        (path, expires, ""),
        (path, expires, "ü"),
        (path + "\udc80", expires, signature),
    ):
        assert url_signer.seconds_left(*changed) is None
    assert UrlSigner(b"other", SystemClock(), _DAY).seconds_left(path, expires, signature) is None


def test_urls_of_others_are_returned_unchanged() -> None:
    url_signer = UrlSigner(b"secret", SystemClock(), _DAY)
    elsewhere = Media("image", "https://example.org/1")
    assert url_signer.sign_media(elsewhere) == elsewhere
    assert url_signer.sign_media(Media("image", "/media/a/s/x.png")).url.startswith(
        "/media/a/s/x.png?"
    )


def test_every_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    kept = MediaFiles(str(tmp_path / "deep" / "media"))
    kept.check()
    kept.save("acc", "ses", _PNG, PNG)
    made = [path for path in (tmp_path / "deep").rglob("*") if path.is_dir()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in made} == {0o700}
