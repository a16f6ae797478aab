"""URIs of stores and storages as they may be shown and recorded: without their passwords."""

from __future__ import annotations

import re
from urllib.parse import unquote

SECRET_KEY = re.compile(
    r"(pass|passwd|password|passphrase|pwd|secret|token|api_?key|odbc_connect)$", re.IGNORECASE
)
"""Names of the query parameters whose values are secrets; a `passfile` is a path."""
PLAIN = re.compile(r"(?:[A-Za-z0-9._~!$()*+,;=:-]|%[0-9A-Fa-f]{2})*")
"""A password that libraries read as it is meant; of another, a part may be taken for the host."""


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
    plain = [unquote(secret) for secret in secrets]
    forms = {*secrets, *plain, *(repr(each)[1:-1] for each in plain)}
    if forms:
        longest_first = sorted(forms, key=len, reverse=True)
        text = re.sub("|".join(map(re.escape, longest_first)), "***", text)
    return text[:200]


def _parted(uri: str) -> tuple[str, list[str]]:
    """The URI without its secrets, and the secrets."""
    if uri.startswith("sqlite:"):  # a path, in which @ and : are nothing special
        return uri, []
    scheme, slashes, rest = uri.partition("://") if "://" in uri else ("", "", uri)
    account, _, host = rest.rpartition("@")
    user, colon, password = account.partition(":")
    if colon and any(_is_secret(pair) for pair in re.split("[?&]", account)[1:]):
        user, password = re.split("([:?].*)", rest, maxsplit=1, flags=re.DOTALL)[:2]
        return scheme + slashes + user, [password]  # whichever of the two the password is
    if colon:
        rest = f"{user}@{host}"
    kept, *pairs = re.split("([?&])", rest)
    secrets, mark = [password] if password else [], ""
    for separator, pair in zip(pairs[::2], pairs[1::2], strict=True):
        mark = mark or separator
        if _is_secret(pair):
            secrets.append(pair.partition("=")[2])
        elif "=" in pair or not secrets:  # else the rest of a password that holds an &
            kept, mark = kept + mark + pair, ""
    return scheme + slashes + kept, [secret for secret in secrets if secret]


def _is_secret(pair: str) -> bool:
    return bool(SECRET_KEY.search(unquote(pair.partition("=")[0])))
