"""Pictures of put-off turns: held for the next attempt, within a limit, not for ever."""

from tests.support.clocks import ManualClock
from worker.fetching.image_cache import ImageCache, Images
from worker.providers.contract import Image


def _images(size: int) -> Images:
    return (Image("image/png", b"x" * size),)


def test_what_is_held_is_there_once_and_for_its_own_turn() -> None:
    pictures = ImageCache(ManualClock())
    pictures.keep("ann", "1", _images(10))
    assert pictures.take("ann", "2") is None
    assert pictures.take("bob", "1") is None
    assert pictures.take("ann", "1") == _images(10)
    assert pictures.take("ann", "1") is None


def test_a_turn_without_pictures_is_not_held() -> None:
    pictures = ImageCache(ManualClock())
    pictures.keep("ann", "1", ())
    assert pictures.take("ann", "1") is None


def test_beyond_the_limit_who_holds_most_loses_the_oldest() -> None:
    pictures = ImageCache(ManualClock(), bytes_max=100)
    pictures.keep("bob", "0", _images(20))
    for number in range(1, 10):
        pictures.keep("ann", str(number), _images(20))
    assert pictures.take("bob", "0") is not None
    held = [number for number in range(10) if pictures.take("ann", str(number))]
    assert held == [6, 7, 8, 9]


def test_more_than_the_limit_is_not_held_at_all() -> None:
    pictures = ImageCache(ManualClock(), bytes_max=100)
    pictures.keep("ann", "1", _images(101))
    assert pictures.take("ann", "1") is None


def test_what_nobody_comes_back_for_is_dropped() -> None:
    clock = ManualClock()
    pictures = ImageCache(clock)
    pictures.keep("ann", "1", _images(10))
    clock.now = 899
    pictures.keep("ann", "2", _images(10))
    clock.now = 900
    assert pictures.take("bob", "1") is None
    assert list(pictures._held) == [("ann", "2")]
