"""No password is shown or recorded, whatever characters it has."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url

from levit_ablate.cli.main import run_command
from levit_ablate.errors import UserError
from levit_ablate.tracking.store import open_store
from levit_ablate.tracking.uris import reason, without_password

HARD = ("#/?", "p@ss:w@rd", "a&b=c", "%", "%40", "://x@y", "?password=a&b", "'\\\n", "ü")
PLACES = (("http", "", "host:5000/mlflow"), ("postgresql", "user@", "db:5432/x?sslmode=require"))
"""Scheme, what is shown of the account, and the rest of a URI."""


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("postgresql://user:p:ss@word@db:5432/optuna", "postgresql://user@db:5432/optuna"),
        ("postgresql://user:p#s?s/w@db:5432/optuna", "postgresql://user@db:5432/optuna"),
        ("postgresql://user@db/optuna", "postgresql://user@db/optuna"),
        ("postgresql://:secret@db/optuna", "postgresql://db/optuna"),
        ("mysql+pymysql://us%40er:secret@db/x", "mysql+pymysql://us%40er@db/x"),
        ("postgresql://db/x?password=secret&sslmode=require", "postgresql://db/x?sslmode=require"),
        ("postgresql://db/x?sslmode=require&pass%77ord=a", "postgresql://db/x?sslmode=require"),
        (
            "postgresql://db/x?sslmode=require&passfile=f",
            "postgresql://db/x?sslmode=require&passfile=f",
        ),
        ("postgresql://db/x?password=secret", "postgresql://db/x"),
        ("mssql+pyodbc:///?odbc_connect=PWD%3Dsecret", "mssql+pyodbc:///"),
        ("http://user:secret@host:5000/mlflow", "http://host:5000/mlflow"),
        ("https://:secret@host", "https://host"),
        ("user:secret@host", "host"),
        ("https://token@host", "https://host"),
        ("http://host:5000/mlflow", "http://host:5000/mlflow"),
        ("http://[::1]:5000", "http://[::1]:5000"),
        ("sqlite:////a:b@c/mlflow.db?timeout=5", "sqlite:////a:b@c/mlflow.db?timeout=5"),
        ("sqlite:///trials.db", "sqlite:///trials.db"),
        (
            "postgresql://h:5432/db?application_name=me@host",
            "postgresql://h:5432/db?application_name=me@host",
        ),
        ("http://[::1]:5000/x?user=me@host", "http://[::1]:5000/x?user=me@host"),
        ("file:///c:/me@x/mlruns", "file:///c:/me@x/mlruns"),
        ("/a:b@c/mlruns", "/a:b@c/mlruns"),
        ("file:///a&b?c", "file:///a&b?c"),
        ("http://user:secret@host/x?flag", "http://host/x?flag"),
        ("postgresql://user:word@p@db/x", "postgresql://user@db/x"),
        ("postgresql://db/x?password=s@e&cret&user=me", "postgresql://db/x?user=me"),
        ("postgresql://db:5432/x?password=s@e/cret", "postgresql://"),
        ("grpc://host:13000", "grpc://host:13000"),
        ("", ""),
    ],
)
def test_a_uri_is_shown_and_recorded_without_its_password(uri, expected):
    assert without_password(uri) == expected
    assert without_password(expected) == expected


def with_examples(test):
    for password in HARD:
        test = example(password=password)(test)
    return given(password=st.text(min_size=1))(test)


@with_examples
def test_any_password_is_left_out(password):
    for scheme, user, rest in PLACES:
        shown = without_password(f"{scheme}://user:{password}@{rest}")
        # the second where what is in the password looks like a parameter of the URI
        assert shown in (f"{scheme}://{user}{rest}", f"{scheme}://")


@with_examples
def test_any_encoded_password_is_left_out_and_nothing_else(password):
    encoded = quote(password, safe="")
    for scheme, user, rest in PLACES:
        uri = f"{scheme}://user:{encoded}@{rest}"
        assert make_url(uri).password == password
        assert without_password(uri) == f"{scheme}://{user}{rest}"
    uri = f"postgresql://db/x?password={encoded}&sslmode=require"
    assert without_password(uri) == "postgresql://db/x?sslmode=require"


@with_examples
def test_any_password_is_left_out_of_the_words_of_an_error(password):
    for said in (password, quote(password, safe="")):
        uri = f"http://user:{said}@host"
        for shown in (uri, said, password, repr(password)[1:-1]):
            told = reason(OSError(f"<{shown}>"), uri)
            pieces = told.split("***")
            assert told == HIDDEN or not any(
                p in piece for p in (said, password) for piece in pieces
            )


@pytest.mark.parametrize(
    "uri", ["postgresql://h:5432/db?application_name=me@host", "file:///c:/me@x/mlruns"]
)
def test_no_password_is_blamed_where_there_is_none(uri):
    assert reason(OSError("connection refused"), uri) == "connection refused"


def test_a_password_among_the_parameters_is_left_out_as_the_driver_has_it():
    assert reason(OSError("<a b>"), "postgresql://db/x?password=a+b") == "<***>"


HIDDEN = reason(OSError(), "http://user:@@host")


def test_a_password_that_is_taken_for_a_host_is_not_in_the_drivers_words():
    uri = "postgresql+psycopg://user:a@secret.invalid:x@127.0.0.1:9/there"
    with pytest.raises(ValueError, match=r"secret|x@") as caught:  # SQLAlchemy says it
        create_engine(uri).connect()
    assert "percent-encoded" in reason(caught.value, uri)
    with pytest.raises(UserError, match="percent-encoded") as told:
        open_store(uri)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    "words",
    [
        "run no_pyramid --tracking-uri URI",
        "plan paper --tracking-uri URI",
        "table paper --tracking-uri URI",
        "search equal_flops --report --tracking-uri URI",
        "search equal_flops --serve 127.0.0.1:9 --storage URI",
        "ui --tracking-uri URI",
        "ui URI",
        "run no_pyramid URI",
        "run no_pyramid --tracking-url URI",
        "run no_pyramid --tracking-url=URI",
    ],
)
@pytest.mark.parametrize("scheme", ["http", "postgresql+psycopg", "nonsense", "grpc"])
@pytest.mark.parametrize("password", ["s3cr3t", "s3cr3t#/?", "a@s3cr3t"])
def test_no_command_prints_a_password(words, scheme, password, capsys):
    uri = f"{scheme}://user:{password}@127.0.0.1:9/there"
    run_command([word.replace("URI", uri) for word in words.split()])
    assert "s3cr3t" not in "".join(capsys.readouterr())
