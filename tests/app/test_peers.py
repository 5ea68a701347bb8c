"""Which machine a request comes from, and what says that a request was handed on."""

import pytest

from moeviz_app.server.client_address import is_among, is_from_a_proxy, is_loopback, is_this_machine


@pytest.mark.parametrize(
    ("address", "among"),
    [("10.1.2.3", True), ("::ffff:10.1.2.3", True), ("127.0.0.1", True), ("127.0.0.2", False), ("proxy", False)],
)
def test_a_proxy_is_listed_by_its_address_or_its_network(address, among):
    assert is_among(address, ["127.0.0.1", "10.0.0.0/8"]) == among


@pytest.mark.parametrize("host", ["localhost", "localhost:8501", "127.0.0.1:80", "[::1]:8501", "LOCALHOST"])
def test_these_hosts_are_this_machine(host):
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["", "evil.example", "localhost.evil.example", "evil.example:127", "127.0.0.1.nip.io"])
def test_these_hosts_are_not(host):
    assert not is_loopback(host)


def test_a_peer_is_this_machine_by_its_address_alone():
    assert all(map(is_this_machine, ("127.0.0.1", "127.3.4.5", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_this_machine, ("", "10.0.0.1", "localhost", "::ffff:10.0.0.1", "unix:")))


def test_headers_that_hand_on_are_known_in_any_case():
    assert all(map(is_from_a_proxy, ("X-Forwarded-For", "x-forwarded-prefix", "FORWARDED", "Via", "X-Real-IP")))
    assert not any(map(is_from_a_proxy, ("Host", "Cookie", "Origin", "Sec-WebSocket-Key")))
