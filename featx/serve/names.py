"""The names under which a server may be reached."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from featx.errors import FeatxError

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::\d{1,5})?")


@dataclass(frozen=True)
class Names:
    """Names and addresses that a request may be sent to.

    The names of this machine for itself are always known. Where other machines reach the server,
    so are its addresses and its own name. A name on the network belongs to whoever asked for it, so
    any other must be given.

    Parameters
    ----------
    local_only
        Whether the server listens for this machine only.
    given
        Further names, as of a reverse proxy.

    Raises
    ------
    FeatxError
        If one of them is not a name.

    Examples
    --------
    >>> names = Names(local_only=True, given=("cells.example.org",))
    >>> [names.know(n) for n in ("localhost:80", "[::1]", "cells.example.org", "evillocalhost")]
    [True, True, True, False]
    """

    local_only: bool = True
    given: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.given:
            if not _HOST.fullmatch(name):
                raise FeatxError(
                    f"--name takes a host name such as cells.example.org; got {name!r}"
                )
        object.__setattr__(self, "given", tuple(_bare(name) for name in self.given))

    def know(self, host: str) -> bool:
        """Tell whether the value of a header ``Host`` names this server."""
        name = _bare(host)
        if not name:
            return False
        if name == "localhost" or name.endswith(".localhost") or name in self.given:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return not self.local_only and name in _own_names()
        return address.is_loopback or not self.local_only


def _bare(host: str) -> str:
    """Give a name in lower case without its port; empty where it is not a name."""
    found = _HOST.fullmatch(host)
    return (found[1] or found[2]).lower().removesuffix(".") if found else ""


def _own_names() -> set[str]:
    name = socket.gethostname().lower()
    return {name, name.partition(".")[0], f"{name.partition('.')[0]}.local"}
