"""URIs of stores and storages as they may be shown and recorded: without their passwords."""

from __future__ import annotations

import re
from urllib.parse import quote, quote_plus, unquote, unquote_plus

SECRET_KEY = re.compile(
    r"(pass|passwd|password|passphrase|pwd|secret|token|api_?key|odbc_connect)$", re.IGNORECASE
)
"""Names of the query parameters whose values are secrets; a `passfile` is a path."""
PLAIN = re.compile(r"(?:[A-Za-z0-9._~!$()*+,;=:-]|%[0-9A-Fa-f]{2})*")
"""A password that libraries read as it is meant; of another, a part may be taken for the host."""
ACCOUNT = re.compile(r"((?:[^:/]*://)?+[^:/]*):(.+)(?=@)", re.DOTALL)
"""A user and a password, which may hold anything and goes to the last `@`."""
PORT = re.compile(r"(?:[^:/]*://)?+(?:\[[^]@]*\]|[^:/?#@]+):\d{1,5}/[^?@]*\?[^:/?]+\Z")
"""A host, a port, a path and parameters, one of which holds an `@`: no account."""
PAIR = re.compile(r"(?<=[?&])(?P<name>[^?&=]*)=(?P<value>[^?&]*(?:[?&][^?&=]*(?=[?&]|\Z))*)[?&]?")
"""A query parameter, with what may be the rest of a value that holds `&` or `?`."""


def without_password(uri: str) -> str:
    """The URI without its password, and without the query parameters that are secrets.

    It is left out, with no mark in its place, so that the rest still opens a store whose password
    is in `PGPASSWORD` or `~/.pgpass`. Where `@`, `/`, `?` or `#` leave open where the password
    ends, all that it might be is left out.
    """
    return _parted(uri)[0]


def reason(error: BaseException, uri: str = "") -> str:
    """The first line of what an error goes back to, or its kind where that says nothing.

    Args:
        error: a library's.
        uri: what was opened: its password is in none of the libraries' words that are passed on.
    """
    while root := error.__cause__ or error.__context__:
        error = root
    kind = type(error).__name__
    text = (str(error).strip().splitlines() or [kind])[0]
    secrets = _parted(uri)[1]
    if not all(PLAIN.fullmatch(secret) for secret in secrets):
        return f"{kind}; what is special in the password (@ : / ? # &) is to be percent-encoded"
    plain = [decode(secret) for secret in secrets for decode in (unquote, unquote_plus)]
    forms = {*secrets, *plain, *(repr(each)[1:-1] for each in plain)}
    if forms:
        longest_first = sorted(forms, key=len, reverse=True)
        text = re.sub("|".join(map(re.escape, longest_first)), "***", text)
    return text[:200]


def _parted(uri: str) -> tuple[str, list[str]]:
    """The URI without its secrets, and the secrets as they stand in it."""
    from sqlalchemy.engine import make_url  # a second, which --help has not
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(uri)
        is_read = url.render_as_string(hide_password=False) == uri and "@" not in (url.host or "")
    except (ArgumentError, ValueError):
        is_read = False
    if not is_read:
        return _cut(uri)
    names = [name for name in url.query if SECRET_KEY.search(name)]
    values = [quote_plus(value) for name in names for value in url.normalized_query[name]]
    shown = url._replace(password=None).difference_update_query(names).render_as_string()
    secrets = [quote(url.password or "", safe=" +"), *values]
    return shown, [secret for secret in secrets if secret]


def _cut(uri: str) -> tuple[str, list[str]]:
    """The same of a URI that SQLAlchemy reads in another way than it is written, or not at all."""
    secrets = []
    if account := ACCOUNT.match(uri):
        user, password = account.groups()
        if any(_is_secret(pair) for pair in PAIR.finditer(password)):
            return user, [uri[len(user) + 1 :]]  # the password is this one or the parameter
        if not PORT.match(uri):
            uri = user + uri[account.end(2) :]
            secrets = [password]
    pairs = [pair for pair in PAIR.finditer(uri) if _is_secret(pair)]
    if pairs:
        uri = PAIR.sub(lambda pair: "" if _is_secret(pair) else pair[0], uri).rstrip("?&")
    return uri, secrets + [pair["value"] for pair in pairs if pair["value"]]


def _is_secret(pair: re.Match[str]) -> bool:
    return bool(SECRET_KEY.search(unquote(pair["name"])))
