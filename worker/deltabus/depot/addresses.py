"""Which IP addresses are public: those that a URL of a task may lead to.

The table is what IANA's special-purpose registries (RFC 6890 and its updates) list as not globally reachable, in full:
Python's own `ipaddress` differs from version to version.
"""

from __future__ import annotations

import ipaddress
from typing import Final

IPv4: Final = tuple(
    map(
        ipaddress.IPv4Network,
        (
            "0.0.0.0/8",  # this host: 0.0.0.0 is another name of localhost
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' NAT, and the metadata of some clouds
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's metadata: public by its looks only
            "169.254.0.0/16",  # link-local, and the metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocol assignments, and the metadata of Oracle's cloud
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # 6to4 relays
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)

#: All of IPv6 that is given out to be reached from everywhere; what is not in it is not public.
IPv6_PUBLIC: Final = ipaddress.IPv6Network("2000::/3")

#: What is not public even there.
IPv6: Final = tuple(
    map(
        ipaddress.IPv6Network,
        (
            "2001::/23",  # protocol assignments: Teredo, which embeds IPv4, ORCHID, benchmarks
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, which embeds IPv4
            "3fff::/20",  # documentation
        ),
    )
)

#: Where an IPv6 address is an IPv4 address: mapped (RFC 4291), and NAT64's well-known prefix (RFC 6052), by which hosts
#: without IPv4 reach it. The prefix for local use (64:ff9b:1::/48) is not public.
_EMBEDDING: Final = (ipaddress.IPv6Network("::ffff:0:0/96"), ipaddress.IPv6Network("64:ff9b::/96"))


def is_public(address: str) -> bool:
    """Whether this is the address, as the system writes it, of a host that anybody can reach."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.scope_id is not None:  # of one of this host's own networks
            return False
        if not any(parsed in network for network in _EMBEDDING):
            return parsed in IPv6_PUBLIC and not any(parsed in network for network in IPv6)
        parsed = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    return not any(parsed in network for network in IPv4)
