"""Images of deferred turns: kept for the next attempt, within a byte limit, for a time."""

from tests.support.clocks import ManualClock
from worker.fetching.image_cache import ImageCache, Images
from worker.providers.contract import Image


def _images(size: int) -> Images:
    return (Image("image/png", b"x" * size),)


def test_what_is_held_is_there_once_and_for_its_own_turn() -> None:
    cache = ImageCache(ManualClock())
    cache.keep("ann", "1", _images(10))
    assert cache.take("ann", "2") is None
    assert cache.take("bob", "1") is None
    assert cache.take("ann", "1") == _images(10)
    assert cache.take("ann", "1") is None


def test_a_turn_without_images_is_not_held() -> None:
    cache = ImageCache(ManualClock())
    cache.keep("ann", "1", ())
    assert cache.take("ann", "1") is None


def test_beyond_the_limit_who_holds_most_loses_the_oldest() -> None:
    cache = ImageCache(ManualClock(), bytes_max=100)
    cache.keep("bob", "0", _images(20))
    for number in range(1, 10):
        cache.keep("ann", str(number), _images(20))
    assert cache.take("bob", "0") is not None
    held = [number for number in range(10) if cache.take("ann", str(number))]
    assert held == [6, 7, 8, 9]


def test_more_than_the_limit_is_not_held_at_all() -> None:
    cache = ImageCache(ManualClock(), bytes_max=100)
    cache.keep("ann", "1", _images(101))
    assert cache.take("ann", "1") is None


def test_what_nobody_comes_back_for_is_dropped() -> None:
    clock = ManualClock()
    cache = ImageCache(clock)
    cache.keep("ann", "1", _images(10))
    clock.now = 899
    cache.keep("ann", "2", _images(10))
    clock.now = 900
    assert cache.take("bob", "1") is None
    assert list(cache._held) == [("ann", "2")]
