"""Rules of `deltabus check --production` about Redis: who gets in, who can listen, what is kept."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import SplitResult, parse_qsl, urlsplit

from deltabus.cli.finding import Verdict
from deltabus.cli.surroundings import Surroundings


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by its name or address alone: nothing is looked up."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost" or host.lower().endswith(".localhost")


def _url(around: Surroundings) -> tuple[SplitResult, dict[str, str]]:
    url = urlsplit(around.settings.redis_url)
    return url, dict(parse_qsl(url.query))


def _is_here(url: SplitResult) -> bool:
    """Whether what is said to Redis stays on this machine."""
    hosts = url.netloc.rpartition("@")[2].split(",")  # several: Sentinels, nodes of a Cluster
    return "unix" in url.scheme or all(is_loopback(re.sub(r":\d+$", "", host)) for host in hosts)


def _password(around: Surroundings) -> Verdict:
    url, options = _url(around)
    if url.password or options.get("password") or options.get("ssl_certfile") or "unix" in url.scheme:
        return None
    fix = "give the server a password or ACL users (ops/acl), and say it: DELTABUS_REDIS_PASSWORD_FILE"
    if _is_here(url):
        return "warning", "none: every program of this machine reads and writes all tasks", fix
    return "error", "none: whoever reaches the port reads and writes all tasks", fix


def _password_shown(around: Surroundings) -> Verdict:
    url, options = _url(around)
    if around.settings.sources.get("redis_url") != "--redis" or not (url.password or options.get("password")):
        return None
    return (
        "error",
        "it is on the command line, which every user of the machine can list",
        "use DELTABUS_REDIS_URL_FILE, or DELTABUS_REDIS_PASSWORD_FILE beside a URL without password",
    )


def _tls(around: Surroundings) -> Verdict:
    url, options = _url(around)
    if _is_here(url):
        return None
    if not url.scheme.startswith("rediss"):
        return "error", "none: passwords, prompts and answers cross the network in plain text", "use rediss:// and TLS"
    if options.get("ssl_cert_reqs", "required").lower() in {"none", "optional"}:
        return "error", "`ssl_cert_reqs`: any certificate will do", "leave it out, and name your CA: ssl_ca_certs=PATH"
    if options.get("ssl_check_hostname", "true").lower() in {"false", "0", "no", "n", "f"}:
        return "warning", "`ssl_check_hostname`: any host that the CA knows will do", "leave it out"
    return None


def _user(around: Surroundings) -> Verdict:
    if around.server is None or around.server.user != "default":
        return None
    return (
        "warning",
        "`default`: it may do everything, FLUSHALL and CONFIG included",
        "make a user for each role: ops/acl has recipes for workers, producers, subscribers and operators",
    )


def _private(around: Surroundings) -> Verdict:
    folder = around.server.config.get("dir", "") if around.server else ""
    if "/deltabus-redis-" not in folder:
        return None
    return (
        "error",
        "it is the private server of `deltabus dev` or `demo`: it ends with that command, and keeps nothing",
        "run a Redis or Valkey of your own, and name it: DELTABUS_REDIS_URL",
    )


def _eviction(around: Surroundings) -> Verdict:
    policy = around.server.info.get("maxmemory_policy", "noeviction") if around.server else "noeviction"
    if policy == "noeviction":
        return None
    return (
        "error",
        f"`{policy}`: when memory runs out, Redis drops queues, leases and logs without a word",
        "deltabus redis CONFIG SET maxmemory-policy noeviction, and in redis.conf",
    )


def _memory(around: Surroundings) -> Verdict:
    if around.server is None or around.server.info.get("maxmemory", 1):
        return None
    return (
        "warning",
        "`maxmemory` is not set: Redis grows until the system kills it, instead of refusing new tasks",
        "deltabus redis CONFIG SET maxmemory …, three quarters of what the machine has",
    )


def _persistence(around: Surroundings) -> Verdict:
    server = around.server
    if server is None:
        return None
    if server.info.get("aof_enabled"):
        if server.config.get("appendfsync") == "no":
            return (
                "warning",
                "`appendfsync no`: a power cut loses what the system had not written, some 30 seconds",
                "deltabus redis CONFIG SET appendfsync everysec",
            )
        return None
    fix = "deltabus redis CONFIG SET appendonly yes, and in redis.conf"
    if not server.config:
        return "warning", "no append-only file, and the server does not tell about snapshots", fix
    if not server.config.get("save"):
        return "error", "none: a restart of Redis loses every task that waits or runs", fix
    return "warning", "snapshots only: a restart loses the tasks since the last one", fix


def _replicas(around: Surroundings) -> Verdict:
    server = around.server
    if server is None:
        return None
    if not server.info.get("connected_slaves"):
        return (
            "warning",
            "none: with the server's disk, all tasks are gone",
            "add a replica, with Sentinel or your provider's failover",
        )
    if server.config.get("min-replicas-to-write", "1") == "0":
        return (
            "warning",
            "`min-replicas-to-write 0`: a primary that is cut off goes on taking tasks, which a failover then loses",
            "deltabus redis CONFIG SET min-replicas-to-write 1",
        )
    return None


def _shared(around: Surroundings) -> Verdict:
    server = around.server
    if server is None or not server.other_queues or around.settings.rq_key_prefix != "rq":
        return None
    named = ", ".join(server.other_queues[:3]) + (", …" if len(server.other_queues) > 3 else "")
    return (
        "warning",
        f"others use RQ's prefix `rq` here ({named}): one typo in a queue's name, and they take these tasks",
        "set RQ_KEY_PREFIX, here and for your producers, or use a Redis, or a database, of your own",
    )


def _serializer(around: Surroundings) -> Verdict:
    if around.server is None or not around.server.pickled_queues:
        return None
    named = ", ".join(around.server.pickled_queues)
    return (
        "error",
        f"the first job of {named} is no JSON: a producer pickles, and what it sends is refused",
        'enqueue with RQ\'s JSON serializer: Queue(…, serializer="json")',
    )


#: Subject of the finding, and what finds it.
RULES: Final[Mapping[str, Callable[[Surroundings], Verdict]]] = {
    "redis.password": _password,
    "redis.password-shown": _password_shown,
    "redis.tls": _tls,
    "redis.user": _user,
    "redis.private": _private,
    "redis.eviction": _eviction,
    "redis.memory": _memory,
    "redis.persistence": _persistence,
    "redis.replicas": _replicas,
    "queues.shared": _shared,
    "queues.serializer": _serializer,
}
