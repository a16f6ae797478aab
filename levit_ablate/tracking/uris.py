"""URIs of stores as they may be shown and recorded: without secrets. No MLflow."""

from __future__ import annotations

import re
from urllib.parse import unquote, unquote_plus

SECRET = re.compile(
    r"(pass|passwd|password|passphrase|pwd|secret|token|api_?key|odbc_connect)$", re.IGNORECASE
)
"""Names of query parameters with secret values; a `passfile` is a path."""
PLAIN = re.compile(r"(?:[A-Za-z0-9._~!$()*+,;=:-]|%[0-9A-Fa-f]{2})*")
"""Passwords that libraries read as they are meant; part of another may be taken for the host."""
NO_ACCOUNT = re.compile(
    r"/.*|(\[[^]@]*\]|[^:/?#@]+)(:\d{1,5})?/[^?@]*\?[^:/?=]+=[^:/?]*", re.DOTALL
)
"""A path, or host, port, path and query, with an `@` that ends no account."""
NO_USER = ("", "http://", "https://")
"""Schemes whose user is not shown: it may be a token. A database's is needed to open it again."""


def without_password(uri: str) -> str:
    """Return a URI without its password and its secret query parameters.

    At a web server without its user too. Where an unencoded `@`, `/`, `?` or `#` leaves open what
    is secret, rather too much is left out.
    """
    return _split(uri)[0]


def reason(error: BaseException, uri: str = "") -> str:
    """Return the first line of an error's root cause, or its type where that is empty.

    Args:
        error: raised by a library.
        uri: what was opened; the line does not contain its password.
    """
    while root := error.__cause__ or error.__context__:
        error = root
    kind = type(error).__name__
    text = (str(error).strip().splitlines() or [kind])[0]
    secrets = _split(uri)[1]
    if not all(PLAIN.fullmatch(secret) for secret in secrets):
        return f"{kind}; what is special in the password (@ : / ? # &) is to be percent-encoded"
    decoded = [decode(secret) for secret in secrets for decode in (unquote, unquote_plus)]
    forms = {*secrets, *decoded, *(repr(each)[1:-1] for each in decoded)}
    if forms:
        longest_first = sorted(forms, key=len, reverse=True)
        text = re.sub("|".join(map(re.escape, longest_first)), "***", text)
    return text[:200]


def _split(uri: str) -> tuple[str, list[str]]:
    """Return the URI as it may be shown, and its secrets as they are written in it."""
    scheme = uri[: uri.find("://") + 3] if re.match("[^:/@]*://", uri) else ""
    rest = uri.removeprefix(scheme)
    account, at, host = rest.rpartition("@")
    secrets = []
    if at and not NO_ACCOUNT.fullmatch(rest):
        names = re.findall("[?&]([^?&=]*)=", rest)
        if re.search("[@/?#]", account) and any(map(_is_secret, names)):
            return scheme, [rest]  # the password is before the last `@`, or contains it
        user, _, password = account.partition(":")
        secrets = [password]
        rest = f"{user}@{host}" if user and scheme.lower() not in NO_USER else host
    path, _, query = rest.partition("?")
    public: list[str] = []
    hidden = False
    for pair in query.split("&"):
        name, equals, value = pair.partition("=")
        hidden = _is_secret(name) if equals else hidden  # else it may belong to the value before
        if hidden:
            secrets.append(value or name)
        else:
            public.append(pair)
    if public != query.split("&"):
        rest = "?".join(filter(None, [path, "&".join(public)]))
    return scheme + rest, [secret for secret in secrets if secret]


def _is_secret(name: str) -> bool:
    return bool(SECRET.search(unquote(name)))
