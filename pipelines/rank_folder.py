"""The folder of `diffguide rank`: its files, and the state of the search between its answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .files import LOCK, held, whole

if TYPE_CHECKING:
    from torch import Tensor

    from diffguide.guidance import ZerothOrderRankSearch


@dataclass
class RankFolder:
    """Checked as it is made; nothing is written before it is `held`.

    identity: what has to be the same for going on. UserError: files of a search that is neither to be resumed nor
    overwritten, nothing to resume, or a file in the place of the folder.
    """

    path: Path
    identity: dict[str, Any]
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        self.sheet, self.best = self.path / "sheet.png", self.path / "best.png"
        self.noise, self.state = self.path / "best.safetensors", self.path / "state.safetensors"
        self._check()

    def _check(self) -> None:
        try:
            blocked = next(
                (part for part in (self.path, *self.path.parents) if part.exists() and not part.is_dir()), None
            )
            found = [file for file in (self.state, self.sheet, self.best, self.noise) if file.exists()]
        except OSError as error:
            raise UserError(f"cannot write to {str(self.path)[:80]!r}: {error.strerror}") from error
        if blocked is not None:
            raise UserError(f"the output folder {str(self.path)!r} cannot be: {str(blocked)!r} is a file")
        if self.resume and self.state not in found:
            raise UserError(f"there is no search to resume in {str(self.path)!r}")
        if found and not (self.resume or self.overwrite):
            raise UserError(
                f"{str(found[0])!r} exists already: give --resume to go on, --overwrite to begin again, or another "
                "--output"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder, created where it is missing, for this process, and without what is to be overwritten.

        UserError: that cannot be, another process holds it, or one has written files since.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        busy = f"another search is at work in {str(self.path)!r}: wait for it, or give another --output"
        with held(self.path / LOCK, busy):
            self._check()
            try:
                for file in (self.state, self.sheet, self.best, self.noise) if self.overwrite else ():
                    file.unlink(missing_ok=True)
            except OSError as error:
                raise self._unwritable(error) from error
            yield

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"cannot write to the folder {str(self.path)!r}: {error.strerror}")

    def save(self, search: ZerothOrderRankSearch) -> None:
        """Keep the state of the search."""
        self._write(self.state, search.state_dict(), {"identity": json.dumps(self.identity)})

    def save_noise(self, latents: Tensor) -> None:
        """Keep the initial noise (1, ...) of the best picture, under the name "latents", as its pipeline takes it."""
        self._write(self.noise, {"latents": latents}, {})

    def load(self, search: ZerothOrderRankSearch) -> None:
        """Give the search its state, where it is resumed. UserError: of another search, or damaged."""
        if not self.resume:
            return
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.state, "pt") as file:
                before = dict(json.loads(file.metadata()["identity"]))
                changed = [name for name, value in self.identity.items() if before.get(name) != value]
                if not changed:
                    search.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise UserError(f"{str(self.state)!r} is damaged: --overwrite begins again") from error
        if changed:
            what, (there, here) = changed[0], (str(its.get(changed[0]))[:80] for its in (before, self.identity))
            raise UserError(
                f"{str(self.state)!r} is of a search with another {what.removesuffix('s').replace('_', ' ')} "
                f"({there} there, {here} here): give it, or another --output"
            )

    def _write(self, path: Path, tensors: dict[str, Tensor], about: dict[str, str]) -> None:
        from safetensors.torch import save

        with whole(path) as temporary:
            temporary.write_bytes(save({name: tensor.contiguous() for name, tensor in tensors.items()}, about))
