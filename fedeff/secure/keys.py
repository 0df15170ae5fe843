"""Keys that two parties agree upon: X25519, and HKDF-SHA256 for what each key is used for."""

from dataclasses import dataclass
from functools import cached_property

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from fedeff.core.errors import SecureAggregationError

__all__ = ["KEY_BYTES", "KeyPair", "public_of"]

KEY_BYTES = 32


@dataclass(frozen=True, repr=False)
class KeyPair:
    """A private key for one session, and its public half. Its `repr` tells neither."""

    private: bytes
    public: bytes

    @classmethod
    def new(cls) -> "KeyPair":
        """A pair from the operating system's randomness."""
        return cls.of(X25519PrivateKey.generate().private_bytes_raw())

    @classmethod
    def of(cls, private: bytes) -> "KeyPair":
        """The pair of a private key."""
        return cls(private, public_of(private))

    def agreed(self, other: bytes, purpose: bytes) -> bytes:
        """32 bytes that only the holders of the two private keys can have, for one purpose.

        Raises:
            SecureAggregationError: for bytes that are no public key.
        """
        try:
            shared = self._key.exchange(X25519PublicKey.from_public_bytes(other))
        except ValueError as error:
            raise SecureAggregationError(
                f"{len(other)} bytes are no public key of X25519 ({error}); the sender must make a new pair"
            ) from None
        return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(shared)

    @cached_property
    def _key(self) -> X25519PrivateKey:
        return X25519PrivateKey.from_private_bytes(self.private)


def public_of(private: bytes) -> bytes:
    """The public half of a private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()
