"""Are keys read with suspicion, and do signatures belong to one key and one text?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from controller.approver_keys import (
    approver_keys,
    make_key_file,
    public_key_in,
    public_key_text,
    read_key_file,
    signed_by,
)
from controller.errors import BadInput
from tests.builders_approvals import ALICE, BOB


def test_a_key_file_is_its_owners_alone_and_reads_back(tmp_path: Path) -> None:
    file = tmp_path / "alice.key"
    made = make_key_file(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_key_file(file).public == made.public
    assert signed_by(made.public, b"text", read_key_file(file).sign(b"text"))


def test_a_signature_is_of_one_key_and_one_text() -> None:
    signature = ALICE.sign(b"text")
    assert signed_by(ALICE.public, b"text", signature)
    assert not signed_by(ALICE.public, b"texts", signature)
    assert not signed_by(BOB.public, b"text", signature)
    assert not signed_by(ALICE.public, b"text", signature[:-1] + bytes([signature[-1] ^ 1]))


ORDER_8 = bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a")
PRIME = 2**255 - 19


@pytest.mark.parametrize(
    "y",
    [0, 1, PRIME - 1, PRIME, PRIME + 1, int.from_bytes(ORDER_8, "little"), PRIME - int.from_bytes(ORDER_8, "little")],
)
@pytest.mark.parametrize("sign", [0, 1 << 255])
def test_a_key_with_which_everybody_could_sign_is_refused(y: int, sign: int) -> None:
    key = (y | sign).to_bytes(32, "little")
    with pytest.raises(ValueError, match="everybody could sign"):
        public_key_in(public_key_text(key))


def test_signatures_for_such_a_key_can_be_made_up() -> None:
    """So that the refusal above is not for nothing."""
    identity = (1).to_bytes(32, "little")
    assert signed_by(identity, b"anything", identity + bytes(32))
    assert any(signed_by(ORDER_8, bytes([n]), identity + bytes(32)) for n in range(100))


@pytest.mark.parametrize("key", [b"\xff" * 32, bytes(range(1, 33))])
def test_a_public_key_that_nobody_has_signs_nothing(key: bytes) -> None:
    assert not signed_by(key, b"text", ALICE.sign(b"text"))


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    file = tmp_path / "alice.key"
    make_key_file(file)
    before = file.read_bytes()
    with pytest.raises(BadInput, match="there is a file already"):
        make_key_file(file)
    link = tmp_path / "link.key"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadInput):
        make_key_file(link)
    assert file.read_bytes() == before
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_private_key_that_others_may_read_is_not_used(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "alice.key"
    make_key_file(file)
    file.chmod(mode)
    with pytest.raises(BadInput, match="others than its owner"):
        read_key_file(file)


@pytest.mark.parametrize("what", ["nothing", "text", "another kind of key", "a public key", "a folder", "a pipe"])
def test_what_is_no_private_key_is_refused(tmp_path: Path, what: str) -> None:
    file = tmp_path / "key"
    match what:
        case "text":
            file.write_text("hello")
        case "another kind of key":
            key = generate_private_key(SECP256R1())
            file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        case "a public key":
            file.write_text(public_key_text(ALICE.public))
        case "a folder":
            file.mkdir()
        case "a pipe":
            os.mkfifo(file, 0o600)
    if file.is_file():
        file.chmod(0o600)
    with pytest.raises(BadInput):
        read_key_file(file)


@pytest.mark.parametrize("text", ["", "ed25519:", "ed25519:AAAA", "AAAA", "ed25519:" + "A" * 45, "ed25519:" + "é" * 43])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a public key"):
        public_key_in(text)


def test_public_keys_come_from_the_settings_or_from_files(tmp_path: Path) -> None:
    file = tmp_path / "bob.pub"
    file.write_text(public_key_text(BOB.public) + "\n")
    linked = tmp_path / "linked.pub"
    linked.symlink_to(file)  # as Kubernetes mounts a ConfigMap
    said = {"alice": public_key_text(ALICE.public), "bob": str(linked)}
    assert approver_keys(said) == {"alice": ALICE.public, "bob": BOB.public}


@pytest.mark.parametrize("what", ["nothing", "text", "others may write it"])
def test_a_public_key_file_that_cannot_be_believed_is_refused(tmp_path: Path, what: str) -> None:
    file = tmp_path / "bob.pub"
    if what != "nothing":
        file.write_text("hello" if what == "text" else public_key_text(BOB.public))
    if what == "others may write it":
        file.chmod(0o622)
    with pytest.raises(BadInput, match="bob"):
        approver_keys({"bob": str(file)})


def test_two_approvers_with_one_key_are_refused() -> None:
    key = public_key_text(ALICE.public)
    with pytest.raises(BadInput, match="alice and bob have the same public key"):
        approver_keys({"alice": key, "bob": key})
