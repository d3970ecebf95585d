"""A server's name for a file is found in every form, and never leads out of a folder."""

from __future__ import annotations

import pytest

from deltabus.http import disposition


@pytest.mark.parametrize(
    ("header", "name"),
    [
        ("", None),
        ("attachment", None),
        ('attachment; filename="a b.txt"', "a b.txt"),
        ("attachment; filename=a.txt", "a.txt"),
        ("ATTACHMENT; FILENAME=a.txt; size=3", "a.txt"),
        (r'attachment; filename="a\"b\".txt"', 'a"b".txt'),
        ("attachment; filename=\"x\"; filename*=UTF-8''na%C3%AFve%20%E6%97%A5.txt", "na\u00efve \u65e5.txt"),
        ("attachment; filename*=iso-8859-1'en'na%EFve.txt", "na\u00efve.txt"),
        ("attachment; filename*=no-such''%61.txt", None),
        ("attachment; filename*=utf-8''%ff%fe", None),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        (r'attachment; filename="C:\\temp\\a.txt"', "a.txt"),
        ("attachment; filename*=UTF-8''..%2F..%2Fpasswd", "passwd"),
        ('attachment; filename=".."', None),
        ('attachment; filename=""', None),
        ('attachment; filename="a\x07b.txt"', "ab.txt"),
        ('form-data; name="filename"; filename="b.txt"', "b.txt"),
    ],
)
def test_the_name_is_found(header: str, name: str | None) -> None:
    assert disposition.filename(header) == name
