import pytest
from PIL import Image

from diffguide.pipelines.sheet import LARGEST, SMALLEST, contact_sheet


def tile(color, size=(64, 64)):
    return Image.new("RGB", size, color)


def colors(sheet):
    return {color for _, color in sheet.getcolors(1 << 24)}


def test_small_pictures_are_enlarged_pixel_by_pixel():
    checks = Image.new("RGB", (64, 64), "red")
    checks.paste("blue", (0, 0, 1, 1))
    sheet = contact_sheet([[checks]])
    assert colors(sheet) == {(255, 0, 0), (0, 0, 255), (255, 255, 255)}
    assert _pixels(sheet).count((0, 0, 255)) == 9  # one pixel, three times as wide and high
    assert min(sheet.size) >= SMALLEST


def test_large_pictures_are_reduced():
    assert max(contact_sheet([[tile("red", (2000, 1000))]]).size) < LARGEST + 50


def test_every_picture_is_there_in_its_row_and_column():
    palette = [["#ff0000", "#00ff00"], ["#0000ff", "#ff00ff"]]
    sheet = contact_sheet([[tile(color) for color in row] for row in palette], ["a", "b"], ["x", "y"], title="t")
    red, green, blue = (_left_top(sheet, color) for color in ("#ff0000", "#00ff00", "#0000ff"))
    assert red[1] == green[1]
    assert red[0] == blue[0]
    assert red[0] < green[0]
    assert red[1] < blue[1]


def _left_top(sheet, color):
    mask = Image.new("1", sheet.size)
    wanted = Image.new("RGB", (1, 1), color).getpixel((0, 0))
    mask.putdata([pixel == wanted for pixel in _pixels(sheet)])
    return mask.getbbox()[:2]


def _pixels(image):
    return [image.getpixel((x, y)) for y in range(image.height) for x in range(image.width)]


def test_labels_draw_and_do_not_touch_the_pictures():
    plain = contact_sheet([[tile("red")]])
    labelled = contact_sheet(
        [[tile("red")]], ["a very " + "long " * 60 + "label"], ["x" * 500], [["c" * 500]], "t" * 500
    )
    assert sum(p == (255, 0, 0) for p in _pixels(plain)) == sum(p == (255, 0, 0) for p in _pixels(labelled))
    assert any(sum(pixel) < 150 for pixel in _pixels(labelled))


def test_places_may_be_empty_and_rows_short():
    sheet = contact_sheet([[tile("red"), None], [tile("blue")]], captions=[["a", ""], ["b"]])
    assert {(255, 0, 0), (0, 0, 255)} <= colors(sheet)


def test_what_is_no_grid():
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([])
    with pytest.raises(ValueError, match="at least one picture"):
        contact_sheet([[None]])
    with pytest.raises(ValueError, match="2 row labels for 1 rows"):
        contact_sheet([[tile("red")]], ["a", "b"])
