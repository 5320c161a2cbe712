"""Makes a cluster's certificates, keys and kubeconfigs with openssl, in one folder.

Each cluster has its own certificate authority, which is deleted with its state folder.
"""

import base64
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hack.lib import commands
from hack.lib.errors import HackError

DAYS = 365
_CURVE = "ec_paramgen_curve:prime256v1"
_REQUEST = "[req]\ndistinguished_name = dn\nprompt = no\n[dn]\n"
_AUTHORITY_EXTENSIONS = """[ext]
basicConstraints = critical,CA:TRUE
keyUsage = critical,digitalSignature,keyCertSign,cRLSign
subjectKeyIdentifier = hash
"""
_LEAF_EXTENSIONS = """[ext]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = serverAuth,clientAuth
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """The subject of a certificate: the user (CN), its groups (O), the host names and addresses."""

    user: str
    groups: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


class Pki:
    """The certificates of one folder: NAME.crt and NAME.key, below the authorities `ca`, `front-proxy-ca`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def certificate(self, name: str) -> Path:
        """The file of a certificate."""
        return self.folder / f"{name}.crt"

    def key(self, name: str) -> Path:
        """The file of a private key."""
        return self.folder / f"{name}.key"

    def authority(self, name: str) -> None:
        """Make a self-signed authority."""
        self._request(name, Identity(user=f"dtq-{name}"), _AUTHORITY_EXTENSIONS, ())

    def leaf(self, name: str, identity: Identity, *, authority: str = "ca") -> None:
        """Make a certificate for `identity`, signed by `authority`."""
        signed_by = ("-CA", str(self.certificate(authority)), "-CAkey", str(self.key(authority)))
        self._request(name, identity, leaf_extensions(identity), signed_by)

    def key_pair(self, name: str) -> None:
        """Make a bare key pair: NAME.key and NAME.pub."""
        private = str(self.key(name))
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _openssl(["genpkey", "-algorithm", "EC", "-pkeyopt", _CURVE, "-out", private])
        _openssl(["pkey", "-in", private, "-pubout", "-out", str(self.folder / f"{name}.pub")])

    def kubeconfig(self, name: str, server: str) -> str:
        """Return a kubeconfig with embedded certificates, so that the file can be copied anywhere."""
        user = {"client-certificate-data": self.certificate(name), "client-key-data": self.key(name)}
        return kubeconfig(
            server=server,
            authority=self.certificate("ca").read_bytes(),
            user={key: base64.b64encode(file.read_bytes()).decode() for key, file in user.items()},
        )

    def _request(self, name: str, identity: Identity, extensions: str, signed_by: Sequence[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = self.folder / f"{name}.cnf"
        config.write_text(_REQUEST + subject(identity) + extensions)
        made = ["-keyout", str(self.key(name)), "-out", str(self.certificate(name))]
        new_key = ["-newkey", "ec", "-pkeyopt", _CURVE, "-noenc"]
        shape = ["-config", str(config), "-extensions", "ext", "-days", str(DAYS)]
        _openssl(["req", "-x509", *new_key, *shape, *signed_by, *made])


def subject(identity: Identity) -> str:
    """The subject lines of an openssl request."""
    groups = [f"{index}.O = {group}" for index, group in enumerate(identity.groups)]
    return "\n".join([*groups, f"CN = {identity.user}", ""])


def leaf_extensions(identity: Identity) -> str:
    """The extension section of a certificate for `identity`."""
    names = [f"DNS:{name}" for name in identity.names]
    alternatives = ",".join([*names, *(f"IP:{address}" for address in identity.addresses)])
    return _LEAF_EXTENSIONS + (f"subjectAltName = {alternatives}\n" if alternatives else "")


def kubeconfig(*, server: str, authority: bytes, user: dict[str, str]) -> str:
    """Return a kubeconfig as JSON, which is also YAML."""
    cluster = {"server": server, "certificate-authority-data": base64.b64encode(authority).decode()}
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "dtq", "cluster": cluster}],
        "users": [{"name": "dtq", "user": user}],
        "contexts": [{"name": "dtq", "context": {"cluster": "dtq", "user": "dtq"}}],
        "current-context": "dtq",
    }
    return json.dumps(content, indent=2) + "\n"


def _openssl(arguments: Sequence[str]) -> None:
    openssl = commands.require("openssl", "install openssl 3 (apt-get install openssl)")
    done = subprocess.run([openssl, *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise HackError(f"openssl {arguments[0]} failed: {done.stderr.strip()}")
