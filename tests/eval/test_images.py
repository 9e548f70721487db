import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from diffguide.eval.decode import decode
from diffguide.eval.sources import open_images
from diffguide.pipelines.errors import UserError


def picture(seed=0, side=8):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8))


def encoded(image, kind="PNG", **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def pixels(images, size=3):
    batches = list(images.batches(size))
    return [image for batch in batches for group in batch.groups() for image in group], [
        n for b in batches for n in b.names
    ]


@pytest.fixture
def folder(tmp_path):
    """Five images in two folders, with captions for three."""
    root = tmp_path / "set"
    (root / "deep").mkdir(parents=True)
    for index in range(5):
        path = root / ("deep" if index > 2 else "") / f"{index}.png"
        picture(index).save(path)
        if index < 3:
            path.with_suffix(".txt").write_text(f"caption {index}\n")
    (root / "notes.json").write_text("{}")
    (root / ".hidden.png").write_bytes(b"x")
    return root


def test_folder_zip_tar_and_npz_give_the_same_pixels(tmp_path, folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as file:
        for path in reversed(files):
            file.write(path, path.relative_to(folder).as_posix())
    for name, mode in (("set.tar", "w"), ("set.tar.gz", "w:gz")):
        with tarfile.open(tmp_path / name, mode) as file:
            for path in files:
                file.add(path, path.relative_to(folder).as_posix())
    expected, names = pixels(open_images(folder))
    assert names == ["0.png", "1.png", "2.png", "deep/3.png", "deep/4.png"]
    assert torch.equal(expected[3], torch.from_numpy(np.array(picture(3))).permute(2, 0, 1))
    np.savez(tmp_path / "set.npz", arr_0=torch.stack(expected).permute(0, 2, 3, 1).numpy())
    for name in ("set.zip", "set.tar", "set.tar.gz", "set.npz"):
        source = open_images(tmp_path / name)
        assert source.count == 5
        found, _ = pixels(source)
        assert torch.equal(torch.stack(found), torch.stack(expected)), name
        if not name.endswith("npz"):
            captions = [caption for batch in source.batches(2) for caption in batch.captions]
            assert captions == ["caption 0", "caption 1", "caption 2", None, None]


def test_an_iterable_of_tensors_and_pictures():
    given = [torch.rand(2, 3, 8, 8), torch.rand(3, 8, 8)]
    found, _ = pixels(open_images(iter(given)))
    assert torch.equal(torch.stack(found), torch.cat([given[0], given[1][None]]))
    found, _ = pixels(open_images([picture(4)]))
    assert torch.equal(found[0], torch.from_numpy(np.array(picture(4))).permute(2, 0, 1))
    whole = torch.from_numpy(np.array(picture(4))).permute(2, 0, 1)
    mixed = [group for batch in open_images([whole / 255, whole]).batches(2) for group in batch.groups()]
    assert [(len(group), group.dtype) for group in mixed] == [(1, torch.float32), (1, torch.uint8)]
    assert torch.equal(mixed[1][0], whole)
    for wrong in (torch.rand(3, 8, 8) * 255, torch.full((3, 8, 8), float("nan")), torch.rand(1, 8, 8), "text"):
        with pytest.raises(UserError):
            list(open_images([wrong]).batches(2))


rgba = picture().convert("RGBA")
rgba.putpixel((0, 0), (255, 0, 0, 0))
deep = Image.fromarray(np.full((8, 8), 0x80FF, np.uint16))
frames = [picture(1), picture(2)]
BAD = {
    "truncated": (encoded(picture(side=64))[:5000], "truncated", False),
    "truncated jpeg": (encoded(picture(side=64), "JPEG")[:800], "truncated", False),
    "gif with a damaged end": (encoded(frames[0], "GIF")[:-1] + b"!", "truncated", False),
    "not an image": (b"hello", "not an image", False),
    "empty": (b"", "not an image", False),
    "grayscale": (encoded(picture().convert("L")), "grayscale", True),
    "transparent": (encoded(rgba), "transparent", True),
    "16-bit": (encoded(deep), "16-bit", True),
    "CMYK": (encoded(picture().convert("CMYK"), "JPEG"), "CMYK", True),
    "animated gif": (encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "animated", False),
    "animated webp": (encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]), "animated", False),
    "of another size": (encoded(picture(side=16)), "of another size", True),
    "bomb": (encoded(Image.new("1", (9000, 9000))), "too large", False),
}


@pytest.mark.parametrize(("data", "kind", "convertible"), BAD.values(), ids=BAD)
def test_a_bad_image_is_named_and_counted_and_can_be_left_out(tmp_path, data, kind, convertible):
    for index in range(3):
        picture(index).save(tmp_path / f"{index}.png")
    for name in ("x.png", "y.png"):
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError) as error:
        list(open_images(tmp_path).batches(2))
    message = str(error.value)
    assert message.count("\n") == 0
    assert f"2 {kind}" in message
    assert "'x.png'" in message
    assert "--skip-bad" in message
    assert ("--convert" in message) == convertible
    skipping = open_images(tmp_path, skip_bad=True)
    assert pixels(skipping)[1] == ["0.png", "1.png", "2.png"]
    assert [bad.name for bad in skipping.bad] == ["x.png", "y.png"]
    if convertible:
        assert pixels(open_images(tmp_path, convert=True))[1] == ["0.png", "1.png", "2.png", "x.png", "y.png"]


def test_of_a_jpeg_with_pictures_behind_it_the_first_counts():
    both = encoded(frames[0], "MPO", save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(both)).n_frames == 2
    assert torch.equal(decode(both, "phone.jpg"), decode(encoded(frames[0], "JPEG"), "one.jpg"))


def test_an_offset_with_a_16_in_it_is_not_a_depth():
    for side in range(8, 400):  # until the file's offset of its directory has these digits
        data = encoded(Image.new("RGB", (side, 5), (side % 256, 90, 7)), "TIFF", compression="tiff_lzw")
        if "16" in str(Image.open(io.BytesIO(data)).tile[0][3]):
            assert decode(data, "a.tiff").shape == (3, 5, side)
            return
    raise AssertionError("no such file was made")


def test_what_convert_makes(tmp_path):
    for name, image in (("clear", rgba), ("deep", deep), ("gray", picture().convert("L"))):
        (tmp_path / f"{name}.png").write_bytes(encoded(image))
    (clear, sixteen, gray), _ = pixels(open_images(tmp_path, convert=True))
    (tmp_path / "gray.png").write_bytes(encoded(Image.new("L", (8, 8), 7), transparency=7))
    assert pixels(open_images(tmp_path, convert=True))[0][2].unique().tolist() == [255]  # all of it is transparent
    assert clear[:, 0, 0].tolist() == [255, 255, 255]
    assert torch.equal(clear[:, 1:], torch.from_numpy(np.array(picture())).permute(2, 0, 1)[:, 1:])
    assert sixteen.unique().tolist() == [0x80]
    assert torch.equal(gray[0], torch.from_numpy(np.array(picture().convert("L"))))


def test_lossless_forms_need_no_convert(tmp_path):
    picture().convert("RGBA").save(tmp_path / "opaque.png")
    picture().quantize(200).save(tmp_path / "palette.png")
    assert len(pixels(open_images(tmp_path))[0]) == 2


def test_an_archive_writes_nothing_whatever_its_names(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a" / "b")
    with zipfile.ZipFile("evil.zip", "w") as file:
        for name in ("../../out.png", "/tmp/diffguide-out.png", "in.png"):
            file.writestr(name, encoded(picture()))
    with tarfile.open("evil.tar", "w") as file:
        data = encoded(picture())
        entry = tarfile.TarInfo("../../out.png")
        entry.size = len(data)
        file.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(link)
    assert len(pixels(open_images("evil.zip"))[0]) == 3
    assert len(pixels(open_images("evil.tar"))[0]) == 1
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["evil.tar", "evil.zip"]


SOURCES = {
    "missing": ("nowhere", None),
    "empty folder": ("empty", lambda p: p.mkdir()),
    "text": ("x.txt", lambda p: p.write_text("x")),
    "broken zip": ("x.zip", lambda p: p.write_bytes(b"PK\3\4 no")),
    "broken tar": ("x.tar", lambda p: p.write_bytes(b"no tar at all" * 100)),
    "broken gz": ("x.tar.gz", lambda p: p.write_bytes(b"\x1f\x8b\x08 no")),
    "broken npz": ("x.npz", lambda p: p.write_bytes(b"no")),
    "npz of floats": ("x.npz", lambda p: np.savez(p, arr_0=np.zeros((2, 4, 4, 3)))),
    "npz of objects": ("x.npz", lambda p: np.savez(p, arr_0=np.array([{}, {}]))),
    "npz of statistics": ("x.npz", lambda p: np.savez(p, mu=np.zeros(3), sigma=np.eye(3))),
    "npz cut off": (
        "x.npz",
        lambda p: (np.savez(p, arr_0=np.zeros((9, 40, 40, 3), np.uint8)), p.write_bytes(p.read_bytes()[:9000])),
    ),
}


@pytest.mark.parametrize(("name", "make"), SOURCES.values(), ids=SOURCES)
def test_a_source_that_is_none_is_one_clear_line(tmp_path, name, make):
    if make:
        make(tmp_path / name)
    with pytest.raises(UserError) as error:
        list(open_images(tmp_path / name).batches(4))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_the_embedded_reference_is_what_it_says():
    from diffguide.eval.references import DATA, load_reference, reference_captions

    captions = reference_captions("emoji")
    about = json.loads((DATA / "emoji" / "captions.json").read_text(encoding="utf-8"))
    assert len(captions) == 3786
    assert captions.count("red apple") == 1
    batch = next(load_reference("emoji").batches(64))
    with Image.open(DATA / "emoji" / "sheet.webp") as sheet:
        assert (sheet.format, sheet.width) == ("WEBP", about["side"] * about["columns"])
        tile = np.array(sheet.crop((64, 0, 128, 64)).convert("RGB"))
    assert torch.equal(batch.images[1], torch.from_numpy(tile).permute(2, 0, 1))
    assert batch.captions[:64] == captions[:64]


def test_a_link_that_leads_nowhere_is_an_image_that_cannot_be_read(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(UserError, match=r"1 unreadable"):
        list(open_images(tmp_path).batches(2))
    assert pixels(open_images(tmp_path, skip_bad=True))[1] == ["a.png"]
