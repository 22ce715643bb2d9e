"""Lines come out the same from plain, gzipped and zipped files, and damage is named."""

from __future__ import annotations

import gzip
import zipfile

import pytest

from rlparse.corpora.text_files import TextFile, zip_members
from rlparse.errors import CorpusError

CONTENT = "\ufeffone\r\ntwo é\n\nlast without end".encode()
LINES = [(1, b"one"), (2, "two é".encode()), (3, b""), (4, b"last without end")]


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "corpus.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("corpus/", "")
        file.writestr("corpus/train.txt", CONTENT)
        file.writestr("corpus/dev.txt.gz", gzip.compress(CONTENT))
        file.writestr("corpus/a/same.txt", "1")
        file.writestr("corpus/b/same.txt", "2")
        file.writestr("__MACOSX/corpus/._train.txt", "junk")
        file.writestr("corpus/.DS_Store", "junk")
    return path


def test_plain_and_gzipped_files_have_the_same_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes(CONTENT)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(CONTENT))
    for name, shown in (("a.txt", "a.txt"), ("b.txt.gz", "b.txt")):
        file = TextFile.find(tmp_path / name)
        assert list(file.lines()) == LINES
        assert file.name == shown
        assert str(file) == str(tmp_path / name)


def test_members_of_an_archive_are_found_with_or_without_their_folder(archive):
    for inside in ("corpus/train.txt", "train.txt", "dev.txt.gz"):
        file = TextFile.find(archive / inside)
        assert list(file.lines()) == LINES
        assert str(file) == f"{archive}/corpus/{inside.removeprefix('corpus/')}"
    assert TextFile.find(archive / "dev.txt.gz").name == "dev.txt"
    assert zip_members(archive) == [
        "corpus/train.txt",
        "corpus/dev.txt.gz",
        "corpus/a/same.txt",
        "corpus/b/same.txt",
    ]


def test_the_digest_is_of_the_content(tmp_path, archive):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    digests = {name: TextFile.find(tmp_path / name).digest() for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]
    assert TextFile.find(archive / "train.txt").digest() != TextFile.find(archive / "a/same.txt").digest()


def test_missing_files_are_named(tmp_path, archive):
    with pytest.raises(CorpusError, match=r"nothing\.txt: expected a file, found nothing there"):
        TextFile.find(tmp_path / "nothing.txt")
    with pytest.raises(CorpusError, match="expected a file, found a folder"):
        TextFile.find(tmp_path)
    with pytest.raises(
        CorpusError, match=r"corpus\.zip: expected one member 'test\.txt', found \['corpus/train\.txt', "
    ):
        TextFile.find(archive / "test.txt")
    with pytest.raises(
        CorpusError, match=r"expected one member 'same\.txt', found \['corpus/a/same\.txt', 'corpus/b"
    ):
        TextFile.find(archive / "same.txt")


@pytest.mark.parametrize("keep", [0.3, 0.95])
def test_a_truncated_gzip_file_says_how_far_it_could_be_read(tmp_path, keep):
    packed = gzip.compress(b"".join(b"line %d of many lines\n" % i for i in range(20_000)))
    (tmp_path / "cut.gz").write_bytes(packed[: int(len(packed) * keep)])
    lines = TextFile.find(tmp_path / "cut.gz").lines()
    seen = [0]

    def read_on() -> None:
        for number, _ in lines:
            seen.append(number)

    with pytest.raises(
        CorpusError, match=r"cut\.gz, after line \d+: expected more, found a truncated or damaged"
    ) as caught:
        read_on()
    assert f"after line {seen[-1]}:" in str(caught.value)


def test_damaged_packed_files_are_named(tmp_path, archive):
    (tmp_path / "no.gz").write_bytes(b"not packed at all")
    with pytest.raises(CorpusError, match=r"no\.gz, after line 0: expected more"):
        list(TextFile.find(tmp_path / "no.gz").lines())
    (tmp_path / "no.zip").write_bytes(b"not packed at all")
    with pytest.raises(CorpusError, match=r"no\.zip: expected a zip archive, found a damaged file"):
        zip_members(tmp_path / "no.zip")
    content = bytearray(archive.read_bytes())
    start = content.index(b"train.txt") + len(b"train.txt") + 2
    content[start : start + 8] = b"\xff" * 8
    archive.write_bytes(content)
    with pytest.raises(CorpusError, match=r"train\.txt, after line \d: expected more"):
        list(TextFile.find(archive / "train.txt").lines())
