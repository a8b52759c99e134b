"""May this address be asked? Only http and https, never link-local addresses or the metadata services of clouds."""

from __future__ import annotations

import socket
from ipaddress import IPv6Address, ip_address, ip_network
from urllib.parse import urlsplit

_LINK_LOCAL = (ip_network("169.254.0.0/16"), ip_network("fe80::/10"))
# Outside the link-local range: Alibaba Cloud, AWS over IPv6, Oracle Cloud.
_METADATA_ADDRESSES = frozenset(map(ip_address, ("100.100.100.200", "fd00:ec2::254", "192.0.0.192")))
_METADATA_HOSTS = frozenset(
    {"metadata", "metadata.google.internal", "metadata.goog", "instance-data", "instance-data.ec2.internal"}
)


def why_unsafe(url: str) -> str:
    """Return why ``url`` is not asked; empty when it may be, as far as its text tells.

    >>> why_unsafe("file:///etc/passwd")
    'only http and https are asked, not file'
    >>> why_unsafe("http://0xa9fea9fe/latest")
    'link-local and metadata addresses are not asked'
    """
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").rstrip(".").lower(), parts.port
    except ValueError as error:
        return f"not an address: {error}"
    if parts.scheme not in ("http", "https"):
        return f"only http and https are asked, not {parts.scheme or 'an address without a scheme'}"
    if not host:
        return "there is no host in it"
    if parts.username is not None or parts.password is not None:
        return "credentials do not belong in an address: they end up in logs; give a file that holds them"
    if parts.query or parts.fragment:
        return "an address ends with its path: no ? and no #"
    return why_unsafe_host(host)


def why_unsafe_host(host: str) -> str:
    """Return why a host is not asked, by its name or any spelling of its address; empty when it may be."""
    if host in _METADATA_HOSTS or _forbidden(_numeric(host)):
        return "link-local and metadata addresses are not asked"
    return ""


def why_unsafe_now(host: str, port: int) -> str:
    """Return why ``host`` is not asked, given what its name resolves to at the moment; empty when it may be.

    A name that does not resolve is left to the connection, which says so.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError:
        return ""
    if any(_forbidden(str(address[4][0])) for address in found):
        return "its name leads to a link-local or metadata address"
    return ""


def _numeric(host: str) -> str:
    """Return the dotted form of an IPv4 address in any spelling that resolvers take: 2852039166, 0xa9.254.1."""
    try:
        return socket.inet_ntoa(socket.inet_aton(host))
    except OSError:
        return host


def _forbidden(address: str) -> bool:
    try:
        known = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(known, IPv6Address) and known.ipv4_mapped is not None:
        known = known.ipv4_mapped
    return known in _METADATA_ADDRESSES or any(
        known in network for network in _LINK_LOCAL if network.version == known.version
    )
