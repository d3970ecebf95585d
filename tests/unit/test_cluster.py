"""To which slot a command goes, and what a Cluster says of its slots."""

from __future__ import annotations

import hashlib

import pytest
from redis.crc import key_slot

from deltabus import keys
from deltabus.blobs import Blobs, Writer
from deltabus.commit import pack, pack_command
from deltabus.errors import ConfigError
from deltabus.scripts import APPEND, TAKE
from deltabus.settings import Settings
from deltabus.topology import clusterscripts
from deltabus.topology.cluster import Cluster
from deltabus.topology.slots import slot_of


def test_a_command_goes_where_its_first_key_lies():
    log = keys.log("task-1").encode()
    assert slot_of(pack_command(b"XRANGE", log, b"-", b"+")) == key_slot(b"task-1")
    assert slot_of(pack_command(b"del", b"{task-1}")) == key_slot(b"task-1")
    assert slot_of(pack(APPEND, (log, keys.cancel("task-1").encode()), ("1-1", b"\r\n" * 2000))) == key_slot(b"task-1")


def test_a_script_of_any_length_and_a_read_of_streams_go_where_their_keys_lie():
    source = "return redis.call('GET', KEYS[1])\r\n" + "-- EVAL $\r\n" * 500
    assert slot_of(pack_command(b"EVAL", source, 1, b"{a}", b"argument")) == key_slot(b"a")
    assert slot_of(pack_command(b"EVAL", source, 0)) is None
    assert slot_of(pack_command(b"XREAD", b"BLOCK", 5, b"STREAMS", b"{a}:log", b"0")) == key_slot(b"a")


@pytest.mark.parametrize(
    "command",
    [("PING",), ("MULTI",), ("SUBSCRIBE", "a"), ("PUBLISH", "a", "b"), ("CLIENT", "ID"), ("EVALSHA", "00", 0, "a")],
)
def test_a_command_without_a_key_goes_home(command):
    assert slot_of(pack_command(*command)) is None


def test_all_keys_of_a_task_lie_in_one_slot_and_tasks_in_many():
    slots = {key_slot(name.encode()) for name in (keys.log("t"), keys.cancel("t"), keys.files("t"))}
    assert len(slots) == 1
    assert len({key_slot(keys.log(f"task-{number}").encode()) for number in range(100)}) > 90


def test_a_blob_is_written_where_it_is_to_lie_in_the_end():
    writer = Writer(Blobs(None), ttl=1, blob_id="wanted")
    assert writer._written != "wanted"
    assert key_slot(keys.blob(writer._written).encode()) == key_slot(keys.blob("wanted").encode())


def test_slots_are_read_with_the_node_that_was_asked_where_it_has_no_name_for_itself():
    cluster = Cluster((("seed", 7000),), home="{rq}")
    reply = [[8192, 16383, [b"", 7001, b"id"]], [0, 8191, [b"10.0.0.2", 7002, b"id"], [b"10.0.0.3", 7003, b"id"]]]
    assert cluster.read(reply, ("seed", 7000)) == cluster.owner(key_slot(b"rq"))
    assert (cluster.owner(0), cluster.owner(8191)) == (("10.0.0.2", 7002), ("10.0.0.2", 7002))
    assert (cluster.owner(8192), cluster.owner(16383)) == (("seed", 7001), ("seed", 7001))
    # Should the seed be gone, they know too.
    assert set(cluster.nodes) == {("seed", 7000), ("seed", 7001), ("10.0.0.2", 7002)}


def test_a_slot_that_nobody_owns_has_no_node():
    cluster = Cluster((("seed", 7000),), home="{rq}")
    assert cluster.read([[0, 1, [b"a", 1, b"id"]], [4, 5, [b"b", 1, b"id"]]], ("seed", 7000)) is None
    assert [cluster.owner(slot) is None for slot in (1, 2, 3, 4, 6)] == [False, True, True, False, True]


def test_rqs_keys_must_lie_in_one_slot():
    with pytest.raises(ConfigError, match=r"RQ_KEY_PREFIX=\{rq\}"):
        Settings(redis_url="redis+cluster://a,b")
    assert Settings(redis_url="redis+cluster://a,b", rq_key_prefix="{rq}").redis_address == "redis+cluster://a,b"


@pytest.mark.parametrize(
    ("url", "problem"), [("redis+cluster://a/1", "no database"), ("redis+cluster://", "must list hosts")]
)
def test_a_cluster_has_nodes_and_no_databases(url, problem):
    with pytest.raises(ConfigError, match=problem):
        Settings(redis_url=url, rq_key_prefix="{rq}")


def test_scripts_that_publish_so_are_loaded_and_called_in_place_of_those_that_are_meant():
    (size, source), call = (
        clusterscripts.translated(pack_command(b"SCRIPT", b"LOAD", APPEND.source), sharded=True).split(b"\r\n", 6)[5:],
        clusterscripts.translated(pack(APPEND, (b"k",), (b"v",)), sharded=True),
    )
    source = source.removesuffix(b"\r\n")
    assert size == b"$%d" % len(source)
    assert source.endswith(APPEND.source)
    assert call.split(b"\r\n")[4] == hashlib.sha1(source).hexdigest().encode()
    assert call.split(b"\r\n")[5:] == pack(APPEND, (b"k",), (b"v",)).split(b"\r\n")[5:]
    other = pack_command(b"GET", b"EVALSHA")
    assert clusterscripts.translated(other, sharded=True) == other


def test_scripts_that_find_keys_by_what_they_read_first_ask_for_one_that_is_not_there():
    for script in (TAKE, APPEND):
        load = clusterscripts.translated(pack_command(b"SCRIPT", b"LOAD", script.source), sharded=False)
        source = load.split(b"\r\n", 6)[6].removesuffix(b"\r\n")
        assert source.endswith(script.source)
        assert source.startswith(b"redis.call('EXISTS', KEYS[1]") is (script is TAKE)
        call = clusterscripts.translated(pack(script, (b"k",), (b"v",)), sharded=False)
        assert call.split(b"\r\n")[4] == hashlib.sha1(source).hexdigest().encode()


def test_a_node_that_has_led_astray_is_asked_last():
    """It may have been taken out of the Cluster, and not have heard of it: it would do so for ever."""
    cluster = Cluster((("stale", 1), ("b", 2), ("c", 3)), home="{rq}")
    cluster.doubt()
    assert cluster.nodes == (("b", 2), ("c", 3), ("stale", 1))
