"""Sources of images that are cut off, and folders with links in them."""

import gzip
import io
import tarfile
import zipfile

import pytest
from PIL import Image

from diffguide.eval.sources import open_images
from diffguide.pipelines.errors import UserError
from diffguide.pipelines.hashing import content_hash


def names(source):
    return [name for batch in open_images(source).batches(2) for name in batch.names]


@pytest.fixture
def tar():
    """The bytes of a tar file of four images, and where in it each ends."""
    stream, ends = io.BytesIO(), []
    with tarfile.open(fileobj=stream, mode="w") as file:
        for index in range(4):
            encoded = io.BytesIO()
            Image.new("RGB", (8, 8), (index, 0, 0)).save(encoded, "PNG")
            member = tarfile.TarInfo(f"{index}.png")
            member.size = len(encoded.getvalue())
            file.addfile(member, io.BytesIO(encoded.getvalue()))
            ends.append(stream.tell())
    return stream.getvalue(), ends


@pytest.mark.parametrize("packed", [False, True])
def test_a_tar_file_that_is_cut_off_is_one_line_wherever_the_cut(tmp_path, tar, packed):
    whole, ends = tar
    path = tmp_path / ("set.tar.gz" if packed else "set.tar")
    for cut in [end + more for end in ends for more in (-600, -1, 0, 1, 511)]:
        path.write_bytes(gzip.compress(whole[:cut]) if packed else whole[:cut])
        with pytest.raises(UserError, match=r"set\.tar.* is a damaged archive") as error:
            names(path)
        assert "\n" not in str(error.value)
    for cut in (ends[-1] + 512, len(whole)):  # one block of zeros says that this is the end
        path.write_bytes(gzip.compress(whole[:cut]) if packed else whole[:cut])
        assert names(path) == ["0.png", "1.png", "2.png", "3.png"]


def test_a_tar_file_with_a_damaged_header_does_not_end_there(tmp_path, tar):
    whole, ends = tar
    (tmp_path / "set.tar").write_bytes(whole[: ends[1]] + b"\xff" * 512 + whole[ends[1] + 512 :])
    with pytest.raises(UserError, match="damaged in the middle"):
        open_images(tmp_path / "set.tar")


def test_links_to_folders_are_followed_and_each_folder_counts_once(tmp_path):
    for place in ("set/own", "elsewhere/deep"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / place / "a.png")
    root = tmp_path / "set"
    (root / "far").symlink_to(tmp_path / "elsewhere")
    assert names(root) == ["far/deep/a.png", "own/a.png"]
    before = content_hash(root)
    for link, target in (("again", "far"), ("own/latest", root / "own"), ("own/up", root), ("another", "own")):
        (root / link).symlink_to(target)
    assert names(root) == ["again/deep/a.png", "own/a.png"]
    assert content_hash(root) != before  # by the names
    before = content_hash(root)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "elsewhere" / "deep" / "a.png")
    assert content_hash(root) != before


def test_captions_have_no_mark_of_their_encoding_and_none_are_made_up(tmp_path):
    (tmp_path / "pictures").mkdir()
    files = {"bom": b"\xef\xbb\xbfred apple\r\n", "wide": "red apple".encode("utf-16"), "empty": b"\n"}
    for name, caption in files.items():
        Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / f"{name}.png")
        (tmp_path / "pictures" / f"{name}.txt").write_bytes(caption)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in sorted((tmp_path / "pictures").iterdir()):
            archive.write(path, path.name)
    for source in ("pictures", "pictures.zip"):
        (batch,) = open_images(tmp_path / source).batches(4)
        assert (batch.names, batch.captions) == (["bom.png", "empty.png", "wide.png"], ["red apple", None, None])
