"""The store in which the members of a group meet: what torch's groups do with it, and who is kept out."""

from __future__ import annotations

import hmac
import os
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
import torch
from torch.distributed import DistStoreError, TCPStore

from s2l_ray.weights import admission
from s2l_ray.weights import store as stores
from s2l_ray.weights.admission import NONCE_BYTES
from s2l_ray.weights.rendezvous import BroadcastGroup, PrefixStore, listen, open_store

SECONDS = 20.0


@pytest.fixture
def served():
    listener = listen("127.0.0.1")
    store = open_store(listener.meeting, SECONDS, listener)
    yield store, listener.meeting
    store.close()


def test_members_share_keys_counters_and_waits(served):
    owner, meeting = served
    member = open_store(meeting, SECONDS)
    for writer, reader in ((owner, member), (member, owner)):
        writer.set("text", "ü")
        writer.set("bytes", bytes(range(256)))
        assert (reader.get("text"), reader.get("bytes")) == ("ü".encode(), bytes(range(256)))
    assert (member.add("n", 3), owner.add("n", -1)) == (3, 2)
    assert member.compare_set("n", "2", "9") == b"9" and member.compare_set("n", "2", "7") == b"9"
    assert member.compare_set("new", "", "1") == b"1"
    assert member.check(["text", "n"]) and not member.check(["text", "none"])
    assert (member.num_keys(), member.delete_key("n"), member.delete_key("n"), owner.num_keys()) == (4, True, False, 3)
    with ThreadPoolExecutor(1) as waiting:
        found = waiting.submit(PrefixStore("p", member).get, "late")
        PrefixStore("p", owner).set("late", "now")
        assert found.result() == b"now"
    with pytest.raises(DistStoreError, match="nobody has set never within 0 s"):
        member.wait(["text", "never"], timedelta(seconds=0.1))
    assert member.get("text") == "ü".encode()  # the connection goes on
    clone = member.clone()
    assert clone is not member and clone.get("text") == "ü".encode()


def test_a_group_of_torch_forms_on_it(served):
    owner, meeting = served

    def receive(rank: int) -> list[float]:
        group = BroadcastGroup(open_store(meeting, SECONDS), "g", rank, 3, "127.0.0.1", SECONDS)
        tensor = torch.zeros(4)
        group.broadcast(tensor)
        return tensor.tolist()

    with ThreadPoolExecutor(2) as others:
        found = [others.submit(receive, rank) for rank in (1, 2)]
        BroadcastGroup(owner, "g", 0, 3, "127.0.0.1", SECONDS).broadcast(torch.arange(4.0))
        assert [one.result() for one in found] == [[0.0, 1.0, 2.0, 3.0]] * 2


def test_a_member_that_gloo_takes_for_another_is_found_out(served):
    """Somebody has got a member's place at the other end of gloo's connection, and knows all but the secret."""
    owner, meeting = served
    impostor = open_store(meeting, SECONDS)
    impostor._meeting = replace(meeting, secret="0" * 64)

    def take_the_place() -> None:
        BroadcastGroup(impostor, "g", 1, 2, "127.0.0.1", SECONDS)

    with ThreadPoolExecutor(1) as elsewhere:
        other = elsewhere.submit(take_the_place)
        for form in (lambda: BroadcastGroup(owner, "g", 0, 2, "127.0.0.1", SECONDS), other.result):
            with pytest.raises(RuntimeError, match="somebody who is no member has connected to the group g"):
                form()


def test_another_secret_is_refused_and_reads_nothing(served):
    owner, meeting = served
    owner.set("weights", "addresses")
    with pytest.raises(DistStoreError, match=f":{meeting.port} did not answer, or does not know our secret"):
        open_store(replace(meeting, secret="0" * 64), 5.0)
    assert open_store(meeting, 5.0).get("weights") == b"addresses"


def test_what_speaks_torchs_own_protocol_or_nothing_is_cut_off(served, monkeypatch):
    monkeypatch.setattr(admission, "HANDSHAKE_S", 0.5)
    owner, meeting = served
    with pytest.raises(Exception, match=r"(?i)timed? ?out|closed|reset|failed"):
        TCPStore("127.0.0.1", meeting.port, timeout=timedelta(seconds=2), wait_for_workers=False).set("a", "b")
    with socket.create_connection(("127.0.0.1", meeting.port), 5) as silent:
        assert len(silent.recv(NONCE_BYTES)) == NONCE_BYTES
        assert silent.recv(1) == b""  # given up
    with socket.create_connection(("127.0.0.1", meeting.port), 5) as eager:
        eager.recv(NONCE_BYTES)
        eager.sendall(bytes(10_000))
        assert received(eager) == b""
    assert owner.num_keys() == 0


def received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionResetError:
        return b""


def test_a_proof_that_was_overheard_is_worth_nothing(served):
    """Of each connection both nonces are new: what one member sent does not let another in, nor does it sent back."""
    _, meeting = served
    with socket.create_connection(("127.0.0.1", meeting.port), 5) as first:
        nonce, ours = first.recv(NONCE_BYTES), bytes(NONCE_BYTES)
        overheard = ours + hmac.digest(meeting.secret.encode(), b"member" + nonce + ours, "sha256")
        first.sendall(overheard)
        answer = first.recv(NONCE_BYTES)
        assert answer == hmac.digest(meeting.secret.encode(), b"server" + nonce + ours, "sha256")
    for replay in (overheard, ours + answer):
        with socket.create_connection(("127.0.0.1", meeting.port), 5) as second:
            assert second.recv(NONCE_BYTES) != nonce
            second.sendall(replay)
            assert received(second) == b""


def test_a_server_that_does_not_know_the_secret_is_not_believed():
    """Somebody who listens where the store was: a member hands nothing over."""
    listener = listen("127.0.0.1")
    heard = []

    def impostor() -> None:
        with listener.accept() as connection:
            connection.sendall(bytes(NONCE_BYTES))
            connection.recv(2 * NONCE_BYTES)
            connection.sendall(bytes(NONCE_BYTES))
            heard.append(connection.recv(100))

    thread = threading.Thread(target=impostor)
    thread.start()
    with pytest.raises(DistStoreError, match="does not know our secret: it has another secret"):
        open_store(listener.meeting, 5.0)
    thread.join()
    listener.close()
    assert heard == [b""]


def test_strangers_that_fill_the_waiting_room_are_shown_out(served, monkeypatch):
    monkeypatch.setattr(admission, "HANDSHAKE_S", 0.3)
    _, meeting = served
    strangers = [socket.create_connection(("127.0.0.1", meeting.port), 5) for _ in range(2 * stores.UNPROVEN)]
    began = time.monotonic()
    assert open_store(meeting, SECONDS).num_keys() == 0
    assert time.monotonic() - began < SECONDS
    for stranger in strangers:
        stranger.close()


def test_nobody_serves_and_a_store_that_ends_are_said(served):
    owner, meeting = served
    member = open_store(meeting, SECONDS)
    with ThreadPoolExecutor(1) as waiting:
        found = waiting.submit(member.get, "never")
        time.sleep(0.1)
        owner.close()
        with pytest.raises(DistStoreError, match=f"the store at 127.0.0.1:{meeting.port} is gone"):
            found.result(10)
    with pytest.raises(DistStoreError, match=f"nobody serves the store at 127.0.0.1:{meeting.port}"):
        open_store(meeting, 1.0)


def test_the_secret_is_in_no_text_of_a_meeting():
    listener = listen("127.0.0.1")
    assert listener.meeting.secret not in f"{listener.meeting!r} {listener.meeting}"
    listener.close()


STRANGER = """
import encodings.idna, os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])), 5)
nonce = connection.recv(32)
connection.sendall(bytes(64))
try:
    print(os.getuid(), "admitted" if connection.recv(1) else "refused")
except ConnectionResetError:
    print(os.getuid(), "refused")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a second user")
def test_a_second_user_of_the_machine_is_refused(served):
    _, meeting = served
    command = [sys.executable, "-S", "-c", STRANGER, str(meeting.port)]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert said.stdout == "65534 refused\n", said.stderr
