"""The API's own certificate: loaded at the start, and again when its file changes.

Open connections keep the certificate that they began with.
"""

import ssl
from pathlib import Path
from typing import Final, Self

from dtq.domain.errors import Rejected
from dtq.runtime.settings import ApiSettings
from dtq_api.auth.reloading_file import ReloadingFile

REFRESH_SECONDS: Final = 10.0
"""How often the file is checked for a renewed certificate, in seconds: kubelet needs a minute to replace it."""


class ServerCertificate:
    """A certificate with its key.

    Raises:
        Rejected: `InvalidSettings`: at the start, the files do not hold a certificate and its key.
    """

    def __init__(self, certificate: Path, key: Path) -> None:
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._key = key
        self._certificate = certificate
        self._file = ReloadingFile(certificate, self._load, variable="DTQ_TLS_CERT_FILE")

    @classmethod
    def of(cls, settings: ApiSettings) -> Self | None:
        """Return the certificate that the settings name, or None."""
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            return None
        return cls(settings.tls_cert_file, settings.tls_key_file)

    async def refresh(self) -> bool:
        """Load the certificate if its file has changed; return False: there is never more to do at once."""
        self._file.refresh()
        return False

    def _load(self, _: str) -> None:
        try:
            # A pair with a mistake would spoil the context in use: OpenSSL drops the key that does not match.
            for context in (ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), self.context):
                context.load_cert_chain(self._certificate, self._key, password="")
        except OSError as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else error.strerror
            raise Rejected(
                "InvalidSettings",
                f"cannot be used with DTQ_TLS_KEY_FILE {self._key} ({reason}): both must be PEM without a password, the"
                " server's certificate first, and the key must be that of the certificate",
            ) from error
