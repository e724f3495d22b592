"""Credentials of a small world for the tests of the client."""

from dataclasses import dataclass
from pathlib import Path

from gram.client import Client
from gram.client.own import Own, load_own
from protocol.gsi.credential import Credential


@dataclass(frozen=True)
class Lab:
    """Credentials: Alice is the user, Mallory another one whom everybody trusts."""

    directory: Path
    certificates: Path
    host: Credential
    alice: Credential
    alice_file: Path
    mallory: Credential

    def own(self, credential: Credential | None = None) -> Own:
        """What a program of this user has; Alice by default."""
        return load_own(credential or self.alice, self.certificates)

    def client(self, credential: Credential | None = None, **options: object) -> Client:
        """A client of this user, Alice by default; it polls fast."""
        options = {"poll_interval": 0.2, "connect_timeout": 10.0} | options
        return Client(
            credential or self.alice,
            trusted_certificates=self.certificates,
            **options,  # type: ignore[arg-type]  # test helper
        )
