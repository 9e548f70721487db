"""Labelled contact sheets: a grid of pictures with a name for each row and column."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image, ImageDraw, ImageFont

SMALLEST, LARGEST = 160, 512  # sides of a cell, in pixels
FONT_SIZE, MARGIN = 14, 8
ROW_LABEL_WIDTH = 180
PAPER, INK = "white", "black"

_Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(
    cells: Sequence[Sequence[Image.Image | None]],
    row_labels: Sequence[str] = (),
    column_labels: Sequence[str] = (),
    captions: Sequence[Sequence[str]] = (),
    title: str = "",
) -> Image.Image:
    """A grid of pictures on white, labels on its edges.

    Args:
        cells: rows of pictures, None for an empty place; rows may differ in length. Small pictures are enlarged by a
            whole factor, pixel by pixel, to a side of at least 160; those above 512 are reduced.
        row_labels: one for each row, on its left, broken into lines; () for none.
        column_labels: one for each column, above it; () for none.
        captions: one below each picture, in the shape of `cells`; () for none.
        title: one line over everything.

    Raises:
        ValueError: no picture at all, or labels that are not as many as rows or columns.
    """
    pictures = [picture for row in cells for picture in row if picture is not None]
    columns = max((len(row) for row in cells), default=0)
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    for name, labels, number in (("row", row_labels, len(cells)), ("column", column_labels, columns)):
        if labels and len(labels) != number:
            raise ValueError(f"{len(labels)} {name} labels for {number} {name}s")
    font = ImageFont.load_default(FONT_SIZE)
    line = FONT_SIZE + 4
    scaled = [[None if picture is None else _fit(picture) for picture in row] for row in cells]
    width = max(picture.width for row in scaled for picture in row if picture is not None)
    height = max(picture.height for row in scaled for picture in row if picture is not None)

    headings = [_wrap(label, width, font) for label in column_labels]
    left = MARGIN + (ROW_LABEL_WIDTH + MARGIN if row_labels else 0)
    title_height = line + MARGIN if title else 0
    top = MARGIN + title_height + (max(map(len, headings)) * line + MARGIN if headings else 0)
    pitch_x, pitch_y = width + MARGIN, height + MARGIN + (line if captions else 0)
    sheet = Image.new("RGB", (left + columns * pitch_x, top + len(cells) * pitch_y), PAPER)
    draw = ImageDraw.Draw(sheet)

    draw.text((MARGIN, MARGIN), _shorten(title, sheet.width - 2 * MARGIN, font), INK, font)
    for x, lines in enumerate(headings):
        draw.multiline_text((left + x * pitch_x, MARGIN + title_height), "\n".join(lines), INK, font)
    for y, label in enumerate(row_labels):
        lines = _wrap(label, ROW_LABEL_WIDTH, font)[: max(1, height // line)]
        draw.multiline_text((MARGIN, top + y * pitch_y), "\n".join(lines), INK, font)
    for y, row in enumerate(scaled):
        for x, picture in enumerate(row):
            corner = left + x * pitch_x, top + y * pitch_y
            if picture is not None:
                sheet.paste(picture, corner)
            if captions:
                draw.text((corner[0], corner[1] + height), _shorten(captions[y][x], width, font), INK, font)
    return sheet


def in_rows(items: Sequence[Any], length: int) -> list[Sequence[Any]]:
    """The items in rows of this length, of which the last may be shorter."""
    return [items[start : start + length] for start in range(0, len(items), length)]


def _fit(picture: Image.Image) -> Image.Image:
    """Enlarged by a whole factor, or reduced, to a side between SMALLEST and LARGEST."""
    picture, longest = picture.convert("RGB"), max(picture.size)
    if longest > LARGEST:
        picture.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
        return picture
    factor = -(-SMALLEST // longest)
    return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def _wrap(text: str, width: int, font: _Font) -> list[str]:
    """`text` in lines of at most `width` pixels, broken between words; a longer word is cut short."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines += [_shorten(word, width, font)]
    return [line for line in lines if line] or [""]


def _shorten(text: str, width: int, font: _Font) -> str:
    """`text` in one line of at most `width` pixels, "..." for what does not fit."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
