"""Keys of SuperNodes: one to authenticate with, one to encrypt the node's state with, and revocation."""

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from fedeff.deployment.private_files import create_private, make_private_folder

__all__ = ["is_revoked", "make_node_key", "make_state_key", "mark_revoked", "read_node_id", "write_node_id"]

_STATE_KEY_BYTES = 32
_REVOKED, _NODE_ID = "revoked", "node-id"


def make_node_key(folder: Path, force: bool = False) -> None:
    """Write `node.key` and `node.pub`, P-384 in OpenSSH's form as Flower wants them.

    A new key is neither revoked nor registered: what was noted of the old one goes. The SuperLink still
    takes the old one; `revoke` it before.

    Raises:
        ConfigError: if there is a key and `force` was not given.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    create_private(folder / "node.key", private, force)
    create_private(folder / "node.pub", public + b"\n", force=True)
    for said_of_old in (_REVOKED, _NODE_ID):
        (folder / said_of_old).unlink(missing_ok=True)


def make_state_key(folder: Path) -> None:
    """Write `state.key`, 32 random bytes in hexadecimal, unless it is there: the state would be lost."""
    make_private_folder(folder / "state")
    path = folder / "state.key"
    if not path.exists():
        create_private(path, os.urandom(_STATE_KEY_BYTES).hex().encode() + b"\n")


def mark_revoked(folder: Path) -> None:
    """Keep the supervisor from starting the node of this folder, now and after the next `up`."""
    create_private(folder / _REVOKED, b"", force=True)


def write_node_id(folder: Path, node_id: str) -> None:
    """Note what the SuperLink calls the node whose key is here."""
    create_private(folder / _NODE_ID, f"{node_id}\n".encode(), force=True)


def read_node_id(folder: Path) -> str:
    """What the SuperLink calls the node whose key is here; "" if it was never registered."""
    file = folder / _NODE_ID
    return file.read_text().strip() if file.exists() else ""


def is_revoked(folder: Path) -> bool:
    """Whether the node's key was revoked and no new one made."""
    return (folder / _REVOKED).exists()
