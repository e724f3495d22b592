from collections.abc import Mapping
from pathlib import Path
from cryptography import x509

class CADirectory:
    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def issuers(self, name: x509.Name | bytes) -> tuple[x509.Certificate, ...]:
        raise NotImplementedError

def default_directory(environ: Mapping[str, str]) -> CADirectory:
    raise NotImplementedError
