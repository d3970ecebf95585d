"""Which addresses a URL of a task may lead to."""

from __future__ import annotations

import pytest

from deltabus.depot.addresses import is_public


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "93.184.216.34",
        "100.63.255.255",
        "100.128.0.1",
        "172.15.255.255",
        "172.32.0.1",
        "192.0.1.1",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2a00:1450:4001:81b::200e",
        "::ffff:1.1.1.1",
        "64:ff9b::1.1.1.1",
    ],
)
def test_an_address_that_everybody_reaches_is_public(address):
    assert is_public(address)


@pytest.mark.parametrize(
    ("what", "address"),
    [
        ("this host", "0.0.0.0"),
        ("this network", "0.1.2.3"),
        ("private", "10.0.0.1"),
        ("private", "172.16.0.1"),
        ("private", "172.31.255.255"),
        ("private", "192.168.1.1"),
        ("carrier NAT", "100.64.0.1"),
        ("carrier NAT", "100.127.255.255"),
        ("metadata of Alibaba", "100.100.100.200"),
        ("loopback", "127.0.0.1"),
        ("loopback", "127.255.255.254"),
        ("link-local", "169.254.0.1"),
        ("metadata of most clouds", "169.254.169.254"),
        ("metadata of Azure", "168.63.129.16"),
        ("metadata of Oracle", "192.0.0.192"),
        ("documentation", "192.0.2.1"),
        ("documentation", "198.51.100.1"),
        ("documentation", "203.0.113.1"),
        ("6to4 relay", "192.88.99.1"),
        ("benchmark", "198.18.0.1"),
        ("multicast", "224.0.0.1"),
        ("reserved", "240.0.0.1"),
        ("broadcast", "255.255.255.255"),
        ("unspecified", "::"),
        ("loopback", "::1"),
        ("compatible with IPv4", "::127.0.0.1"),
        ("mapped loopback", "::ffff:127.0.0.1"),
        ("mapped private", "::ffff:10.0.0.1"),
        ("mapped metadata", "::ffff:a9fe:a9fe"),
        ("translated", "::ffff:0:7f00:1"),
        ("NAT64 of a private one", "64:ff9b::10.0.0.1"),
        ("NAT64 for local use", "64:ff9b:1::1"),
        ("discard", "100::1"),
        ("Teredo", "2001::1"),
        ("benchmark", "2001:2::1"),
        ("ORCHID", "2001:20::1"),
        ("documentation", "2001:db8::1"),
        ("documentation", "3fff::1"),
        ("6to4 of a public one", "2002:0101:0101::1"),
        ("6to4 of loopback", "2002:7f00:1::1"),
        ("segment routing", "5f00::1"),
        ("unique-local", "fc00::1"),
        ("metadata of AWS", "fd00:ec2::254"),
        ("link-local", "fe80::1"),
        ("link-local with a zone", "fe80::1%lo"),
        ("public with a zone", "2606:4700::1%lo"),
        ("site-local", "fec0::1"),
        ("multicast", "ff02::1"),
        ("no address", "localhost"),
        ("no address", "2130706433"),
        ("no address", "0177.0.0.1"),
        ("no address", "0x7f.1"),
        ("no address", "127.1"),
        ("no address", ""),
    ],
)
def test_any_other_is_not(what, address):
    assert not is_public(address)
