"""What a Redis URL says, and what is said of one that says nothing."""

from __future__ import annotations

import pytest

from deltabus.errors import ConfigError
from deltabus.settings import Settings
from deltabus.topology import clients
from deltabus.topology.redisurl import RedisURL


def test_a_url_of_sentinels_names_them_the_service_and_the_database():
    url = RedisURL.parse("redis+sentinel://ann:p%40ss@a:1,[::1]:2,c/mymaster/3?protocol=2&sentinel_password=other")
    assert url.nodes == (("a", 1), ("::1", 2), ("c", 26379))
    assert (url.service, url.path, url.tls) == ("mymaster", "/3", False)
    assert url.passwords == {"p@ss", "other"}
    assert url.public == "redis+sentinel://a:1,[::1]:2,c/mymaster/3"
    assert url.of(("10.0.0.1", 7)) == "redis://ann:p%40ss@10.0.0.1:7/3?protocol=2"
    assert url.of(("::1", 7)) == "redis://ann:p%40ss@[::1]:7/3?protocol=2"


def test_servers_behind_sentinels_with_tls_have_tls():
    assert RedisURL.parse("REDISS+Sentinel://a/s").of(("b", 1)) == "rediss://b:1"


@pytest.mark.parametrize(
    ("url", "with_password"),
    [
        ("redis://h/0", "redis://:p%40@h/0"),
        ("redis://ann@h:1/0?protocol=3", "redis://ann:p%40@h:1/0?protocol=3"),
        ("unix:///run/redis.sock", "unix://:p%40@/run/redis.sock"),
        ("redis+sentinel://a:1,b/s/2?sentinel_password=x", "redis+sentinel://:p%40@a:1,b/s/2?sentinel_password=x"),
    ],
)
def test_a_password_that_stands_elsewhere_is_put_in(url, with_password):
    assert RedisURL.parse(url).with_password("p@") == with_password


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis+sentinel://a:1", "must name the service"),
        ("redis+sentinel://a:1/", "must name the service"),
        ("redis+sentinel:///s", "must list hosts"),
        ("redis+sentinel://a:1,/s", "must list hosts"),
        ("redis+sentinel://a:99999/s", "must list hosts"),
        ("redis+sentinel://a b/s", "must list hosts"),
        ("redis+sentinel://a/s/zero", "the number of a database"),
        (
            "sentinel://a:1;sentinel://b:1",
            "must be a URL such as redis://localhost:6379/0 (or rediss://, unix://, redis+",
        ),
        ("redis://h:port", "must be a URL such as"),
        ("redis://h/mine", "the number of a database, or nothing"),
        ("rediss://h:1/-1", "the number of a database, or nothing"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_with_one_that_could(url, problem):
    with pytest.raises(ConfigError, match="`redis_url`") as caught:
        Settings(redis_url=url)
    assert problem in str(caught.value)


@pytest.mark.parametrize("make", [clients.blocking, clients.asynchronous])
@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("redis://h/0?protocoll=3", "there is no option `protocoll`"),
        ("redis+sentinel://h/s?protocoll=3", "there is no option `protocoll`"),
        ("redis://h/0?socket_timeout=soon", "socket_timeout"),
        (
            "rediss://h/0?ssl_ca_certs=/no/such/file.pem",
            "`ssl_ca_certs` names a file that is not there: /no/such/file.pem",
        ),
        ("rediss+sentinel://h/s?ssl_certfile=/no/such/file.pem", "`ssl_certfile` names a file that is not there"),
    ],
)
def test_an_option_that_means_nothing_is_told_before_anything_is_connected(make, url, problem):
    with pytest.raises(ConfigError, match="`redis_url`") as caught:
        make(url)
    assert problem in str(caught.value)


def test_sentinels_get_their_own_password_and_the_certificates_of_all(tmp_path):
    (tmp_path / "ca.pem").write_text("")
    url = f"rediss+sentinel://ann:secret@a:1,b/s/2?ssl_ca_certs={tmp_path}/ca.pem&sentinel_username=watch"
    kwargs = clients.options(url)
    sentinels = kwargs.pop("whereabouts")
    assert sentinels.options == {"ssl_ca_certs": f"{tmp_path}/ca.pem", "username": "watch"}
    assert kwargs["username"] == "ann"
    assert kwargs["db"] == 2
    assert str(sentinels) == "s (Sentinels a:1, b:26379)"
