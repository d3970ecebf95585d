"""What files are called, and what they are."""

from __future__ import annotations

import pytest

from deltabus.depot import naming


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("report.pdf", "report.pdf"),
        ("/etc/passwd", "passwd"),
        ("..\\..\\windows\\system.ini", "system.ini"),
        ("a/b/", ""),
        ("..", ""),
        (".", ""),
        ("...", ""),
        ("", ""),
        (" \t", ""),
        (".env", ".env"),
        ("two\r\nlines.txt", "twolines.txt"),
        ("nul\0.txt", "nul.txt"),
        ("gpj.\u202efdp.exe", "gpj.fdp.exe"),
        ("line\u2028.txt", "line.txt"),
        ("half\ud800.txt", "half.txt"),
        ('"quoted.txt"', "quoted.txt"),
        ("отчёт за май.pdf", "отчёт за май.pdf"),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("ж" * 200 + ".pdf", "ж" * 125 + ".pdf"),
    ],
)
def test_a_name_has_no_folder_and_nothing_that_does_not_show(raw, name):
    assert naming.file_name(raw) == name
    assert len(name.encode(errors="replace")) <= naming.LONGEST_NAME


@pytest.mark.parametrize(
    ("name", "said", "media_type"),
    [
        ("a.pdf", None, "application/pdf"),
        ("a.PDF", None, "application/pdf"),
        ("a.jsonl", None, "application/jsonl"),
        ("a.wav", None, "audio/wav"),
        ("a.tar.gz", None, "application/gzip"),
        ("a.unheard", None, "application/octet-stream"),
        ("a", None, "application/octet-stream"),
        ("a.pdf", "image/png", "image/png"),
        ("a.pdf", "application/octet-stream", "application/pdf"),
        ("a.pdf", "Application/Octet-Stream; x=y", "application/pdf"),
        ("a", "text/plain; charset=utf-8", "text/plain; charset=utf-8"),
        ("a.pdf", "not a type", "application/pdf"),
        ("a.pdf", "text/html\r\nX-Evil: 1", "application/pdf"),
    ],
)
def test_a_type_is_what_was_said_or_what_the_suffix_says(name, said, media_type):
    assert naming.media_type(name, said) == media_type


@pytest.mark.parametrize(
    ("name", "media_type", "whole"),
    [
        ("file", "application/pdf", "file.pdf"),
        ("file", "audio/mpeg", "file.mp3"),
        ("file", "audio/ogg", "file.ogg"),
        ("file", "image/jpeg", "file.jpg"),
        ("file", "text/plain; charset=utf-8", "file.txt"),
        ("file", "application/octet-stream", "file"),
        ("file", "application/x-unheard-of", "file"),
        ("report.txt", "application/pdf", "report.txt"),
    ],
)
def test_a_name_without_a_suffix_gets_the_one_of_its_type(name, media_type, whole):
    assert naming.with_suffix(name, media_type) == whole
