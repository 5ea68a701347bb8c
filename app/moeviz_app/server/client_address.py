"""The address that a request comes from: this machine, a proxy, or a client behind one."""

import re
from collections.abc import Collection, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from starlette.datastructures import Headers
from starlette.types import Scope

PROXY_HEADERS = {  # that somebody has handed a request on
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "fly-client-ip",
    "x-envoy-external-address",
    "x-original-host",
    "x-original-url",
}


def is_loopback(host: str) -> bool:
    """Return whether a browser that sends this as `Host` asked for its own machine."""
    return re.sub(r":\d+$", "", host).lower() in ("localhost", "127.0.0.1", "[::1]")


def is_from_a_proxy(header: str) -> bool:
    """Return whether a header of that name shows that a proxy has forwarded the request."""
    return header.lower() in PROXY_HEADERS or header.lower().startswith("x-forwarded")


def is_this_machine(address: str) -> bool:
    """Return whether a connection from that address comes from the machine that serves; False for anything else."""
    found = _address(address)
    return found is not None and found.is_loopback


def is_among(address: str, networks: Iterable[str]) -> bool:
    """Return whether an address is one of these, or in one of these networks."""
    found = _address(address)
    return found is not None and any(found in ip_network(each, strict=False) for each in networks)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found


def address_behind(peer: str, forwarded: str, trusted: Collection[str]) -> str:
    """Return the address that a request comes from: its peer or, if that is a listed proxy, what the proxy says.

    Every proxy adds the address of its own peer on the right, so the first from the right that is not a listed proxy is
    the visitor's; what stands further to the left is what a visitor wrote. `trusted` are addresses or networks.

    >>> address_behind("10.0.0.2", "6.6.6.6, 192.0.2.7", ["10.0.0.0/8"])
    '192.0.2.7'
    >>> address_behind("203.0.113.9", "192.0.2.7", ["10.0.0.0/8"])  # no proxy of ours: it may say what it likes
    '203.0.113.9'
    """
    found = peer
    for said in reversed([part.strip() for part in forwarded.split(",") if part.strip()]):
        if not is_among(found, trusted):
            break
        found = said
    return found.removeprefix("::ffff:")  # which an IPv6 socket puts before an address of IPv4


def network_of(address: str) -> str:
    """Return what limits of an address count: the address, or of IPv6 the network that one customer has, a /64.

    >>> network_of("2001:db8::1:2"), network_of("192.0.2.7")
    ('2001:db8::/64', '192.0.2.7')
    """
    found = _address(address)
    return str(ip_network((found, 64), strict=False)) if isinstance(found, IPv6Address) else address


def network_behind(scope: Scope, trusted: Collection[str]) -> str:
    """Return the network that a request comes from, as limits count it; `trusted` are the proxies whose word counts."""
    peer = (scope.get("client") or ("",))[0]
    forwarded = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
    return network_of(address_behind(peer, forwarded, trusted))
