"""RSA keys for tests, made once a session: a fresh one costs tens of milliseconds."""

from functools import cache

from cryptography.hazmat.primitives.asymmetric import rsa


@cache
def rsa_key(label: str, bits: int = 2048) -> rsa.RSAPrivateKey:
    """The key with this label; another label or size is another key."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)
