"""Single, bounded questions to the network: does a server answer, does a name resolve. The caller repeats them."""

import http.client
import socket
import struct

DNS_PORT = 53
DNS_REPLY_BYTES_MAX = 512
_DNS_QUERY_ID = 0x6474
_DNS_RECURSION_DESIRED = 0x0100
_DNS_TYPE_A, _DNS_CLASS_IN = 1, 1


def answers(connection: http.client.HTTPConnection, path: str) -> bool:
    """Return whether the server answers a GET of `path` with 200."""
    try:
        connection.request("GET", path)
        return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def dns_query(name: str) -> bytes:
    """Return a DNS query for the IPv4 addresses of `name`, as one datagram."""
    header = struct.pack(">6H", _DNS_QUERY_ID, _DNS_RECURSION_DESIRED, 1, 0, 0, 0)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return header + labels + b"\0" + struct.pack(">2H", _DNS_TYPE_A, _DNS_CLASS_IN)


def resolves(server: str, name: str, *, timeout_seconds: float) -> bool:
    """Whether the DNS server answers with at least one address for `name`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(timeout_seconds)
        try:
            asking.sendto(dns_query(name), (server, DNS_PORT))
            reply = asking.recv(DNS_REPLY_BYTES_MAX)
        except OSError:
            return False
    query_id, flags, _, answers_count = struct.unpack(">4H", reply[:8])
    return bool(query_id == _DNS_QUERY_ID and flags & 0xF == 0 and answers_count > 0)
