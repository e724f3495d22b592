"""This side's credential and trusted CAs, loaded once for a client."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from gram.client.errors import CredentialProblem
from protocol.aio.gsi import Acceptor, Connector
from protocol.errors import GramError
from protocol.gsi.credential import Credential, PassphraseError, find_credential
from protocol.gsi.directory import CADirectory, default_directory

CredentialSource: TypeAlias = Credential | str | Path | None
TrustSource: TypeAlias = CADirectory | str | Path | None


@dataclass(frozen=True, slots=True)
class Own:
    """Who we are to others: credential, identity, whom we trust, and both TLS roles of it."""

    credential: Credential
    identity: str
    connector: Connector
    acceptor: Acceptor

    def check_lifetime(self) -> None:
        """Raise CredentialProblem when the credential has expired in the meantime."""
        if self.credential.expires <= datetime.now(UTC):
            raise CredentialProblem(
                f"the credential of {self.identity} expired at {self.credential.expires:%FT%TZ}",
                advice="Make a new proxy: `gram proxy init`.",
            )


def load_own(credential: CredentialSource, trusted: TrustSource) -> Own:
    """Load or find the credential and the CA directory (wire-protocol.md 3.1, 3.4).

    None means what GSI programs would find; a path names a proxy file.  Raises CredentialProblem.
    """
    try:
        if credential is None:
            credential = find_credential(os.environ)
        elif not isinstance(credential, Credential):
            credential = Credential.load(credential)
        if trusted is None:
            trusted = default_directory(os.environ)
        elif not isinstance(trusted, CADirectory):
            trusted = CADirectory(trusted)
        if not trusted.path.is_dir():
            raise CredentialProblem(
                f"there is no directory of trusted CAs {trusted.path}",
                advice="Set X509_CERT_DIR to the directory with the CAs' certificates.",
            )
        own = Own(
            credential,
            credential.identity,
            Connector(credential, trusted),
            Acceptor(credential, trusted),
        )
    except PassphraseError as error:
        raise CredentialProblem(
            error.message, advice="Make a proxy of it: `gram proxy init` asks for the pass phrase."
        ) from error
    except CredentialProblem:
        raise
    except GramError as error:
        raise CredentialProblem(error.message) from error
    own.check_lifetime()
    return own
