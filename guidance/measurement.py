"""What the trace keeps of one guided prediction: a few inner products, taken on the device."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from .basis import Combination
from .tensors import gram, inner, precise, squared_norm


class Measurement:
    """What a step's guided prediction says of it, in the prediction space: taken when `numbers` asks, and only then.

    That must be before the next step, in which a rule may use the memory of this one again.

    guided: makes the combination, over a basis that has "cond" and "difference" (cond - uncond).
    """

    def __init__(self, guided: Callable[[], Combination]):
        self._guided = guided

    @classmethod
    def of_tensors(cls, cond: Tensor, difference: Tensor, guided: Tensor) -> Measurement:
        """From tensors (B, ...), for rules on tensors."""
        return _OfTensors(cond, difference, guided)

    @classmethod
    def of_scale(
        cls, cond: Tensor, uncond: Tensor, scale: Tensor | float, difference: Tensor | None = None
    ) -> Measurement:
        """For guided = uncond + scale difference, which costs less to measure. scale: a number, or (B, 1, ...).

        difference: cond - uncond, if the rule has it; else it is taken when `numbers` asks.
        """
        return _OfScale(cond, uncond, scale, difference)

    @classmethod
    def of_move(cls, cond: Tensor, guided: Tensor) -> Measurement:
        """From tensors (B, ...), for a rule that had no unconditional prediction."""
        return _OfMove(cond, guided)

    def numbers(self) -> dict[str, Tensor]:
        """Inner products, (B,) each, of c = cond, d = cond - uncond, g = guided; "update" is |g - c|^2."""
        cond, difference, move = self._vectors()
        return {
            "cc": cond.dot(cond),
            "cd": cond.dot(difference),
            "dd": difference.dot(difference),
            "gd": cond.dot(difference) + move.dot(difference),
            "update": move.dot(move),
        }

    def corrected(self, guided: Tensor) -> Measurement:
        """That of another guided prediction (B, ...) from the same two."""
        cond, difference, _ = self._vectors()
        return _OfTensors(cond.tensor(), difference.tensor(), guided)

    def _vectors(self) -> tuple[Combination, Combination, Combination]:
        guided = self._guided()
        cond = guided.basis["cond"]
        return cond, guided.basis["difference"], guided - cond


class _OfTensors(Measurement):
    """g - c is a tensor of its own, since |g|^2 - 2<g,c> + |c|^2 cancels."""

    def __init__(self, cond: Tensor, difference: Tensor, guided: Tensor):
        self.cond, self.difference, self.guided = cond, difference, guided

    def numbers(self) -> dict[str, Tensor]:
        return _of_tensors(self.cond, self.difference, self.guided)

    def corrected(self, guided: Tensor) -> Measurement:
        return _OfTensors(self.cond, self.difference, guided)


class _Corrected(Measurement):
    """As `_OfTensors`, with a difference that is taken only when the numbers are asked for."""

    def __init__(self, before: _OfScale, guided: Tensor):
        self.before, self.guided = before, guided

    def numbers(self) -> dict[str, Tensor]:
        return _of_tensors(self.before.cond, self.before.difference, self.guided)

    def corrected(self, guided: Tensor) -> Measurement:
        return _Corrected(self.before, guided)


class _OfMove(Measurement):
    """Without a difference of predictions there is |g - c|^2 alone."""

    def __init__(self, cond: Tensor, guided: Tensor):
        self.cond, self.guided = cond, guided

    def numbers(self) -> dict[str, Tensor]:
        move = precise(self.guided) - precise(self.cond)
        return {"update": squared_norm(move).flatten()}

    def corrected(self, guided: Tensor) -> Measurement:
        return _OfMove(self.cond, guided)


class _OfScale(Measurement):
    """g - c is a multiple of d."""

    def __init__(self, cond: Tensor, uncond: Tensor, scale: Tensor | float, difference: Tensor | None):
        self.cond, self.uncond, self.scale, self._difference = cond, uncond, scale, difference

    @property
    def difference(self) -> Tensor:
        return self.cond - self.uncond if self._difference is None else self._difference

    def numbers(self) -> dict[str, Tensor]:
        numbers, extra = _products(precise(self.cond), precise(self.difference)), self.scale - 1
        extra = extra.flatten() if isinstance(extra, Tensor) else extra
        along = extra * numbers["dd"]
        numbers |= {"gd": numbers["cd"] + along, "update": extra * along}
        return numbers

    def corrected(self, guided: Tensor) -> Measurement:
        return _Corrected(self, guided)


def _of_tensors(cond: Tensor, difference: Tensor, guided: Tensor) -> dict[str, Tensor]:
    c, d = precise(cond), precise(difference)
    move, numbers = precise(guided) - c, _products(c, d)
    return numbers | {"gd": numbers["cd"] + inner(move, d).flatten(), "update": squared_norm(move).flatten()}


def _products(cond: Tensor, difference: Tensor) -> dict[str, Tensor]:
    return {name: product.flatten() for name, product in zip(("cc", "cd", "dd"), gram(cond, difference))}
