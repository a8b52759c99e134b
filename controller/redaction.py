"""What of this text may be printed? Everything but the passwords and tokens in its URLs."""

from __future__ import annotations

import re
from urllib.parse import unquote

_HIDDEN = "***"
# A bound on the scheme, or a long run of letters would be searched again from each of them.
_URL = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]{0,31}:/{1,2})([^\s'"<>]*)""")
_NAME = re.compile(r"[^:/?#@&=]+")
_PARAMETER = re.compile(r"([?&;#]|^)([^=&;?#]+)=([^&;#]*)")
_SECRET = re.compile(r"pass|pwd|token|secret|key|credential|signature|auth|\bsig\b", re.IGNORECASE)
_ASSIGNED = re.compile(r"""\b(password|passwd|pwd)(\s*=\s*)('[^']*'|[^\s'"]+)""", re.IGNORECASE)


def redacted(text: str) -> str:
    """Return ``text`` without what its URLs keep secret; rather too little than a character too much.

    Of what stands before the last ``@`` only a user name is shown, and that only where a password follows it: alone
    it may be a token. Values of parameters are hidden where their name speaks of a password, token, key or secret.

    >>> redacted("postgresql://ml:s3cret@db/mlflow?sslmode=require&sslpassword=x")
    'postgresql://ml:***@db/mlflow?sslmode=require&sslpassword=***'
    """
    return _ASSIGNED.sub(rf"\1\2{_HIDDEN}", _URL.sub(_url, text))


def may_hold_secret(text: str) -> bool:
    """Return whether ``text`` gives something a name that speaks of a password, token, key or secret.

    >>> may_hold_secret("{X-Api-Key: 1234}"), may_hold_secret("http://127.0.0.1:9090")
    (True, False)
    """
    return _SECRET.search(text) is not None


def without_credentials(text: str, header: object) -> str:
    """Return ``text`` without the secret of an ``Authorization`` header, which a server may have quoted.

    >>> without_credentials("refused: Bearer t0ken", "Bearer t0ken")
    'refused: Bearer ***'
    """
    shown = header.decode("latin-1") if isinstance(header, bytes) else str(header)
    secret = shown.rpartition(" ")[2]
    return text.replace(secret, _HIDDEN) if secret else text


def _url(found: re.Match[str]) -> str:
    scheme, rest = found[1], found[2]
    secret, at, place = rest.rpartition("@")
    if at:
        user, colon, _ = secret.partition(":")
        secret = f"{user}:{_HIDDEN}" if colon and _NAME.fullmatch(user) else _HIDDEN
    address, mark, parameters = _split(place)
    return f"{scheme}{secret}{at}{address}{mark}{_PARAMETER.sub(_parameter, parameters)}"


def _split(place: str) -> tuple[str, str, str]:
    """Return address, mark and parameters of what stands after the user."""
    found = re.search(r"[?#;]", place)
    return (place[: found.start()], found[0], place[found.end() :]) if found else (place, "", "")


def _parameter(found: re.Match[str]) -> str:
    mark, name, value = found.groups()
    return f"{mark}{name}={_HIDDEN if value and _SECRET.search(unquote(name)) else value}"
