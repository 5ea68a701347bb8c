"""Who a request comes from: this machine, a proxy, or somebody behind one. No Streamlit here."""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

PROXY_HEADERS = {  # that somebody has handed a request on
    "forwarded",
    "via",
    "x-real-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-original-host",
    "x-original-url",
}


def is_loopback(host: str) -> bool:
    """Whether a browser that sends this as `Host` asked for its own machine."""
    return re.sub(r":\d+$", "", host).lower() in ("localhost", "127.0.0.1", "[::1]")


def is_from_a_proxy(header: str) -> bool:
    """Whether a header of that name says that somebody has handed the request on."""
    return header.lower() in PROXY_HEADERS or header.lower().startswith("x-forwarded")


def is_this_machine(address: str) -> bool:
    """Whether a connection from that address comes from the machine that serves. What is no address does not."""
    found = _address(address)
    return found is not None and found.is_loopback


def is_network(text: str) -> bool:
    """Whether it is an address, or a network such as 10.0.0.0/8."""
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def is_among(address: str, networks: Iterable[str]) -> bool:
    """Whether an address is one of these, or in one of these networks."""
    found = _address(address)
    return found is not None and any(found in ip_network(each, strict=False) for each in networks)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return (found.ipv4_mapped or found) if isinstance(found, IPv6Address) else found
