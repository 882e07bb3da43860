from typing import Any

import lineax as lx


class AbstractSymmetricSolver(lx.AbstractLinearSolver):
    """A solver for real symmetric positive definite operators: its state is its own transpose."""

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def assume_full_rank(self) -> bool:
        return True
