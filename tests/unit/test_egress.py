"""Where a URL may lead: every special range, every odd form, and what an operator allows beyond."""

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import pytest
from hypothesis import given, strategies as st

from shared import egress
from shared.egress import EgressPolicy, Target
from shared.errors import EgressError

_PUBLIC: Final = (
    *("1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0"),
    *("126.255.255.255", "128.0.0.0", "169.253.255.255", "172.15.255.255", "172.32.0.0"),
    *("192.0.1.0", "192.88.98.255", "192.88.100.0", "192.167.255.255", "192.169.0.0"),
    *("198.17.255.255", "198.20.0.0", "203.0.112.255", "203.0.114.0", "223.255.255.255"),
    *("2001:200::1", "2001:4860:4860::8888", "2606:4700:4700::1111", "2a00:1450:4001::1"),
    *("2001:db7:ffff::1", "2003::1", "3ffe::1"),
    # What a gateway or a socket would call is public, too.
    *("::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b::808:808"),
)
_NOT_PUBLIC: Final = (
    *("0.0.0.0", "0.1.2.3", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0"),
    *("100.127.255.255", "127.0.0.1", "127.255.255.255", "169.254.0.0", "169.254.169.254"),
    *("172.16.0.0", "172.31.255.255", "192.0.0.0", "192.0.0.9", "192.0.0.170", "192.0.2.1"),
    *("192.88.99.0", "192.88.99.255", "192.168.0.0", "192.168.255.255", "198.18.0.0"),
    *("198.19.255.255", "198.51.100.7", "203.0.113.7", "224.0.0.0", "224.0.0.1"),
    *("239.255.255.255", "240.0.0.0", "255.255.255.254", "255.255.255.255"),
    *("::", "::1", "::2", "::7f00:1", "::8.8.8.8", "100::1", "100:0:0:1::1", "4000::1"),
    *("5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%2", "febf::1", "fec0::1"),
    *("feff::1", "ff00::1", "ff02::1", "ff0e::1", "2001:db8::1", "2001:2::1", "2001:10::1"),
    *("2001:20::1", "2001:1::1", "3fff::1", "3fff:fff:ffff::1"),
    # IPv4 inside IPv6: mapped, translated, 6to4, Teredo.
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:224.0.0.1"),
    *("64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b::224.0.0.1"),
    *("64:ff9b:1::10.0.0.1", "64:ff9b:1:a00:0:100::", "64:ff9b:1::8.8.8.8"),
    *("2002:7f00:1::", "2002:a00:1::1", "2002:c0a8:101::", "2002:a9fe:a9fe::", "2002:808:808::"),
    *("2001:0:7f00:1::", "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    "2001:0:808:808:0:0:f7f7:f7f7",
)


@pytest.mark.parametrize("text", _PUBLIC)
def test_global_unicast_addresses_are_public(text: str) -> None:
    assert egress.is_public(ip_address(text))


@pytest.mark.parametrize("text", _NOT_PUBLIC)
def test_special_addresses_are_not_public(text: str) -> None:
    assert not egress.is_public(ip_address(text))


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        ("::ffff:10.1.2.3", ["10.1.2.3"]),
        ("64:ff9b::10.1.2.3", ["10.1.2.3"]),
        ("64:ff9b:1:a01:2:300::", ["10.1.2.3", "0.0.0.0"]),
        ("64:ff9b:1::10.1.2.3", ["0.0.0.0", "10.1.2.3"]),
        ("2002:a01:203::1", ["10.1.2.3"]),
        # The server, and the client, whose bits are turned.
        ("2001:0:a01:203::f5fe:fdfc", ["10.1.2.3", "10.1.2.3"]),
        ("2a00::1", []),
        ("10.1.2.3", []),
    ],
)
def test_every_embedded_ipv4_address_is_found(outer: str, inner: list[str]) -> None:
    assert [str(each) for each in egress.embedded_ipv4(ip_address(outer))] == inner


@given(st.integers(0, 2**32 - 1))
def test_an_embedded_private_address_is_not_public(bits: int) -> None:
    address = IPv4Address(bits)
    for outer in (
        IPv6Address((0xFFFF << 32) | bits),
        IPv6Address((0x64_FF9B << 96) | bits),
    ):
        assert egress.is_public(outer) == egress.is_public(address)
    for outer in (
        IPv6Address((0x64_FF9B_0001 << 80) | bits),
        IPv6Address((0x2002 << 112) | (bits << 80)),
        IPv6Address((0x2001 << 112) | (bits << 64) | (bits ^ 0xFFFF_FFFF)),
    ):
        assert not egress.is_public(outer)


@given(st.integers(0, 2**128 - 1))
def test_ipv6_outside_unicast_is_not_public(bits: int) -> None:
    address = IPv6Address(bits)
    carries = address.ipv4_mapped is not None or bits >> 32 == 0x64_FF9B << 64
    if egress.is_public(address):
        assert carries or bits >> 125 == 1
        assert not address.is_multicast


@given(st.integers(0, 2**32 - 1))
def test_public_addresses_are_global_for_the_standard_library_too(bits: int) -> None:
    address = IPv4Address(bits)
    if egress.is_public(address):
        assert address.is_global
        assert not address.is_multicast


# How a URL is read


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("http://example.com", Target("http", "example.com", 80, "/")),
        ("HTTPS://EXAMPLE.com:443/a?b=c#d", Target("https", "example.com", 443, "/a?b=c")),
        ("http://example.com.:8080/", Target("http", "example.com.", 8080, "/")),
        ("https://1.2.3.4/x", Target("https", "1.2.3.4", 443, "/x")),
        ("https://[2A00:0::1]:8443/x", Target("https", "2a00::1", 8443, "/x")),
        ("https://[::ffff:1.2.3.4]/", Target("https", "::ffff:102:304", 443, "/")),
        ("https://bär.example/Bär", Target("https", "xn--br-via.example", 443, "/B%C3%A4r")),
        ("https://a.b/%2e%2e/c%2Fd?e=%26", Target("https", "a.b", 443, "/%2e%2e/c%2Fd?e=%26")),
        ("http://a_b.example/", Target("http", "a_b.example", 80, "/")),
        ("http://a\u3002example/", Target("http", "a.example", 80, "/")),
        ("http://\uff11.2.3.4/", Target("http", "1.2.3.4", 80, "/")),
    ],
)
def test_a_url_has_one_normal_form(url: str, target: Target) -> None:
    parsed = egress.parse(url)
    host = parsed.host.replace("::ffff:1.2.3.4", "::ffff:102:304")
    assert (parsed.scheme, host, *parsed[2:]) == target
    assert egress.parse(parsed.url) == parsed


_WRONG: Final = (
    *("", "example.com", "//example.com", "ftp://example.com/", "file:///etc/passwd", "data:,a"),
    *("javascript:alert(1)", "gopher://example.com/", "http:example.com", "http:/example.com"),
    *("http://", "http:///a", "http://:80/", "http://?a", "http://#a"),
    *("http://me@example.com/", "http://me:secret@example.com/", "http://@example.com/"),
    *("http://example.com@127.0.0.1/", "http://127.0.0.1\\@example.com/", "http://a b/"),
    *("http://example.com/\n", "\nhttp://example.com/", "http://exam\tple.com/", "http://a\0b/"),
    *("http://example.com:port/", "http://example.com:-1/", "http://example.com:99999/"),
    # Addresses, to some who read them.
    *("http://0177.0.0.1/", "http://0x7f.0.0.1/", "http://2130706433/", "http://0x7f000001/"),
    *("http://127.1/", "http://127.0.1/", "http://017700000001/", "http://1.2.3.4.5/"),
    *("http://1.2.3/", "http://256.1.1.1/", "http://1.2.3.04/", "http://1.2.3.4./"),
    *("http://999/", "http://a.1/", "http://a.0x1/", "http://0x/", "http://1.2.3.0x4/"),
    *("http://127。1/", "http://①②⑦.0.0.1x.1/"),
    *("http://[::1/", "http://::1/", "http://[1.2.3.4]/", "http://[fe80::1%25eth0]/"),
    *("http://[::g]/", "http://[v1.a]/", "http://[]/"),
    *("http://a..b/", "http://.a/", "http://-a.b/", "http://a-.b/", "http://a%2eb/", "http://a,b/"),
    *("http://" + "a" * 64 + ".b/", "http://" + "a." * 130 + "b/", "http://a/" + "b" * 2_048),
    *("http://xn--\u20ac.\ud800/", "http://example.com/<script>", 'http://example.com/"'),
)


@pytest.mark.parametrize("url", _WRONG)
def test_ambiguous_urls_are_refused(url: str) -> None:
    with pytest.raises(EgressError) as caught:
        egress.parse(url)
    assert caught.value.kind == "forbidden"
    assert caught.value.retry == "never"
    assert "secret" not in caught.value.message


@given(st.text(max_size=60))
def test_a_normalised_url_is_read_to_itself(text: str) -> None:
    try:
        target = egress.parse(f"http://{text}")
    except EgressError:
        return
    assert egress.parse(target.url) == target
    assert target.url.isascii()


# What an operator decides

_PORTS: Final = (80, 443)


def _allows(rules: EgressPolicy, url: str, *addresses: str) -> bool:
    target, refusal = egress.parse(url), None
    try:
        rules.check(target)
        rules.check_addresses(target, [ip_address(each) for each in addresses])
    except EgressError as error:
        refusal = error
    if refusal is None:
        return True
    assert refusal.kind == "forbidden"
    assert not any(each in refusal.message for each in (*addresses, target.host))
    return False


def test_every_address_of_a_name_must_be_public() -> None:
    rules = EgressPolicy((), _PORTS)
    assert _allows(rules, "http://a.b/", "1.1.1.1", "2a00::1")
    assert not _allows(rules, "http://a.b/", "1.1.1.1", "10.0.0.1")
    assert not _allows(rules, "http://a.b/", "::ffff:10.0.0.1")
    assert not _allows(rules, "http://127.0.0.1/")
    assert not _allows(rules, "http://[::1]/")


def test_only_allowed_ports_pass() -> None:
    rules = EgressPolicy((), _PORTS)
    assert not _allows(rules, "http://a.b:22/", "1.1.1.1")
    assert not _allows(rules, "http://a.b:0/", "1.1.1.1")
    assert _allows(EgressPolicy((), (22,)), "http://a.b:22/", "1.1.1.1")


def test_only_the_allowed_networks_and_names_pass() -> None:
    rules = EgressPolicy(("10.1.0.0/16", "Files.Internal", "fd00::/8", "127.0.0.1"), _PORTS)
    assert _allows(rules, "http://a.b/", "10.1.2.3")
    assert _allows(rules, "http://10.1.2.3/")
    assert _allows(rules, "http://a.b/", "::ffff:10.1.2.3")
    assert _allows(rules, "http://[fd00::7]/")
    assert _allows(rules, "http://127.0.0.1/")
    assert _allows(rules, "http://files.internal/", "192.168.0.1")
    assert _allows(rules, "http://FILES.internal./", "192.168.0.1")
    assert not _allows(rules, "http://a.b/", "10.1.2.3", "10.2.2.3")
    assert not _allows(rules, "http://127.0.0.2/")
    assert not _allows(rules, "http://more.files.internal/", "192.168.0.1")
    # Through a gateway it would be another network's.
    assert not _allows(rules, "http://[64:ff9b::10.1.2.3]/")
