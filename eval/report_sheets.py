"""Contact sheets: a row per seed and prompt, a column per rule, one sheet per setting, in a bounded number of bytes."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from typing import Any

from PIL import Image

from diffguide.pipelines.errors import UserError, one_line

from .plan import SHEET_ROWS
from .store import Store

MOST = 4_000_000  # bytes of all pictures in a report
SIDE = 160  # pixels; larger pictures are reduced to it


def contact_sheets(store: Store) -> str:
    """The sheets as HTML, the last setting (usually the largest scale) open. UserError: a picture cannot be read."""
    plan = store.plan
    settings = list(dict.fromkeys(cell.setting for cell in plan.cells))
    cells = {
        setting: [i for i, cell in enumerate(plan.cells) if cell.setting == setting and _room(i)]
        for setting in settings
    }
    pictures: dict[tuple[int, int], str] = {}
    spent = rows = 0
    for image in range(min(SHEET_ROWS, plan.num_images)):
        row = {(i, image): _picture(store, i, image) for members in cells.values() for i in members}
        spent += sum(map(len, row.values()))
        if rows and spent > MOST:
            break
        pictures |= row
        rows += 1
    parts = []
    for number, (setting, members) in enumerate(cells.items()):
        scale, steps, scheduler = setting
        title = f"Scale {scale:g}, {steps} steps" + (f", {scheduler}" if scheduler else "")
        head = "".join(f'<th scope="col">{escape(plan.cells[i].guidance)}</th>' for i in members)
        body = "".join(
            f'<tr><th scope="row">{escape(plan.prompt(k))}<br><span class="small">seed {plan.seed(k)}</span></th>'
            + "".join(f"<td>{_img(pictures[i, k], store, i, k)}</td>" for i in members)
            + "</tr>\n"
            for k in range(rows)
        )
        shown = " open" if number == len(cells) - 1 else ""
        parts.append(
            f'<details{shown}><summary>{escape(title)}</summary><div class="scroll" tabindex="0" role="region" '
            f'aria-label="{escape(title)}, scrolls sideways"><table class="sheet"><thead><tr>'
            f'<th scope="col">prompt</th>{head}</tr></thead><tbody>\n{body}</tbody></table></div></details>\n'
        )
    return "".join(parts)


def _room(cell: int) -> bool:
    """Whether a cell has its place on the sheets: a grid of hundreds of cells would not fit with even one row."""
    return cell < MOST // 12_000


def _picture(store: Store, cell: int, image: int) -> str:
    """A picture as a data URI: as it is in lossless WebP if it is small, else reduced."""
    path = store.image_path(cell, image)
    encoded = BytesIO()
    try:
        with Image.open(path) as picture:
            small = picture.convert("RGB")
    except OSError as error:
        raise UserError(f"cannot read the picture {str(path)!r}: {one_line(error)}") from error
    if max(small.size) > SIDE:
        small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        small.save(encoded, format="WEBP", quality=82)
    else:
        small.save(encoded, format="WEBP", lossless=True)
    return "data:image/webp;base64," + b64encode(encoded.getvalue()).decode()


def _img(source: str, store: Store, cell: int, image: int) -> str:
    plan = store.plan
    words: Any = f"{plan.cells[cell]}, seed {plan.seed(image)}: {plan.prompt(image)}"
    return f'<img src="{source}" alt="{escape(words)}" width="112">'
