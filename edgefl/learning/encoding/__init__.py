"""How updates are written on their way up: chosen in the manifest (`--compress`), the same on all devices of a round.

    name       file          per parameter   left out of a chunk, and kept for the next round
    none       plain.py      32 bits         nothing
    fp16       plain.py      16 bits         (not kept: rounding to nearest)
    bf16       plain.py      16 bits         (not kept)
    int8       blocks.py     8.1 bits        rounding, stochastic
    int4       blocks.py     4.25 bits       rounding, stochastic
    topk:F     sparse.py     32 F bits       all but the largest share F
    randk:F    sparse.py     16 F bits       all but a share F that is drawn alike on all devices
    lowrank:R  low_rank.py   R / 16 bits     what a shared random subspace of rank R does not hold
    …+zstd     lossless.py   as it comes     nothing: on top of any of them

    codec.py      what a family fulfils, and Encoding: feedback, measured error, encoding in place
    spec.py       the names, without numpy

Sums of encoded updates are formed in float32: an inner device decodes a chunk into its sum, and encodes the sum again.
For none, randk and lowrank that costs nothing, since sums stay within what the encoding can express (up to the rounding
of values to 16 bits); for the others the error of each level is measured and shows in the round's history.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgefl.learning.encoding.spec import Spec, check_extra, parse_spec

if TYPE_CHECKING:
    from edgefl.learning.encoding.codec import Codec, Encoded, Encoding

__all__ = ["Encoded", "Encoding", "Spec", "check_extra", "open_encoding", "parse_spec"]


def open_encoding(name: str, seed: int) -> Encoding:
    """The encoding of this name; `seed` is what all devices of the application share. Raises UsageError."""
    from edgefl.learning.encoding.codec import Encoding

    spec = parse_spec(name)
    codec = _codec(spec)
    if spec.zstd:
        from edgefl.learning.encoding.lossless import Zstd

        codec = Zstd(codec)
    return Encoding(codec, seed)


def _codec(spec: Spec) -> Codec:
    from edgefl.learning.encoding.blocks import Blocks
    from edgefl.learning.encoding.low_rank import LowRank
    from edgefl.learning.encoding.plain import BFloat16, Float16, Float32
    from edgefl.learning.encoding.sparse import RandomK, TopK

    families: dict[str, type[Codec]] = {"none": Float32, "fp16": Float16, "bf16": BFloat16}
    if spec.family in families:
        return families[spec.family]()
    if spec.family in ("int8", "int4"):
        return Blocks(int(spec.family[3:]))
    if spec.family == "lowrank":
        return LowRank(int(spec.number))
    return TopK(spec.number) if spec.family == "topk" else RandomK(spec.number)
