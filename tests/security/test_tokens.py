"""What a token opens, and which texts are none."""

import pytest

from trialfleet.model import errors
from trialfleet.wire import tokens
from trialfleet.wire.tokens import Grant

KEY = "k" * 32
OTHER = "o" * 32


@pytest.mark.parametrize("study", ["digits", "", "a.b-c_d", "größe/🚢", "x" * 512])
def test_a_study_is_opened_by_its_token(study: str) -> None:
    token = tokens.for_study(KEY, study)
    assert tokens.check([KEY], token) == Grant(study)
    assert token.isascii() and not set(token) & set(" \n,;")


def test_everything_is_opened_by_the_admin_token() -> None:
    assert tokens.check([KEY], tokens.for_admin(KEY)) == Grant(None)


def test_tokens_differ_by_study_and_key() -> None:
    made = {tokens.for_admin(key) for key in (KEY, OTHER)} | {
        tokens.for_study(key, study) for key in (KEY, OTHER) for study in ("a", "b", "")
    }
    assert len(made) == 8


def test_any_of_several_keys_counts() -> None:
    token = tokens.for_study(OTHER, "digits")
    assert tokens.check([KEY], token) is None
    assert tokens.check([KEY, OTHER], token) == Grant("digits")
    assert tokens.check([OTHER, KEY], token) == Grant("digits")
    assert tokens.check([], token) is None


def _forgeries() -> list[str]:
    token, admin = tokens.for_study(KEY, "digits"), tokens.for_admin(KEY)
    kind, name, code = token.split(".")
    other = tokens.for_study(KEY, "other").split(".")[1]
    return [
        "",
        ".",
        "..",
        "tfs",
        "tfa",
        "tfa.",
        "tfs..",
        KEY,
        f"{kind}.{other}.{code}",
        f"{kind}.{name}.",
        f"{kind}.{name}",
        f"{kind}.{name}=.{code}",
        f"{kind}.{name}.{code}.",
        f"{kind}.{name}.{code}=",
        f"{kind}.{name}.{code[:-1]}",
        f"{kind}.é.{code}",
        f"{kind}./w.{code}",
        f"tfa.{code}",
        f"tfs..{admin.partition('.')[2]}",
        f"tfx.{name}.{code}",
        token.swapcase(),
        f" {token}",
        f"{token}\0",
        admin[:-1],
        f"{admin}.{name}",
    ]


@pytest.mark.parametrize("token", _forgeries())
def test_a_text_that_is_no_token_opens_nothing(token: str) -> None:
    assert tokens.check([KEY, OTHER], token) is None


def test_every_changed_character_spoils_a_token() -> None:
    token = tokens.for_study(KEY, "digits")
    for place in range(len(token)):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        assert tokens.check([KEY], changed) is None


def test_keys_are_read_one_a_line() -> None:
    assert tokens.read_keys(f"{KEY}\n\n  {OTHER}\r\n") == [KEY, OTHER]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found no key, accepted: one a line"),
        (" \n\n", "found no key, accepted: one a line"),
        (f"{KEY}\nshort", "found a key of 5 characters, accepted: at least 32, random"),
    ],
)
def test_keys_that_are_none(text: str, message: str) -> None:
    with pytest.raises(errors.InvalidInput, match=f"^{message}$"):
        tokens.read_keys(text)


def test_metadata() -> None:
    assert tokens.metadata("abc") == ("authorization", "Bearer abc")


def test_a_token_of_a_study_object_bears_its_uid() -> None:
    token = tokens.for_study(KEY, "digits", "0f-1")
    assert tokens.check([KEY], token) == Grant("digits", "0f-1")
    assert tokens.check([OTHER], token) is None
    kind, name, uid, code = token.split(".")
    other = tokens.for_study(KEY, "digits", "0f-2").split(".")
    for forged in (
        f"{kind}.{name}.{other[2]}.{code}",
        f"{kind}.{uid}.{name}.{code}",
        f"{kind}.{name}..{code}",
        f"{kind}.{name}.{code}",
        f"tfs.{name}.{code}",
        f"tfs.{name}.{uid}.{code}",
        tokens.for_study(KEY, "digits").replace("tfs", "tfo"),
    ):
        assert tokens.check([KEY], forged) is None
    with pytest.raises(errors.InvalidInput, match=r"^uid: found "):
        tokens.for_study(KEY, "a", "b\0c")
