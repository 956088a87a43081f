"""What tests of captured iterations use for a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable

from ddfast.train.adjoint.capture import Outputs


class StandIn:
    """Replays as a CUDA graph does: the same function on the same buffers, results in the tensors of the first run."""

    def __init__(self) -> None:
        self.recorded = 0

    def __call__(self, function: Callable[[], Outputs]) -> Callable[[], Outputs]:
        self.recorded += 1
        outputs = function()

        def replay() -> Outputs:
            for old, new in zip(outputs, function(), strict=True):
                old.copy_(new)
            return outputs

        return replay
