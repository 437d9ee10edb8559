"""Products of a few rows with a weight that a CPU reads once from its memory, for processors with AVX-512 or AVX2.

For a few rows reading the weight is most of the work. oneDNN's products take a processor without AMX 1.5 to 1.9 times
as long with 8 rows, measured on AMD's Zen 4. A weight lies in panels of 48 (24) outputs, so that it is read from front
to end; 8 (4) rows by as many outputs are summed in 24 (12) registers. A row's sums do not depend on the other rows: all
have the order of the inputs. Axes: B rows, N outputs, K inputs, P panels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import torch
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from s2l_nemo.engines.embedded.compiled import F32, Numbers, compiled, processor_has

_WIDE = processor_has("avx512f")  # 32 registers of 16 numbers; AVX2 has 16 of 8
_CAN = _WIDE or (processor_has("avx2") and processor_has("fma"))
_KINDS = {torch.float32: "float32[:,::1]", torch.bfloat16: "uint16[:,::1]"}
_LANES, _ROWS = (16, 8) if _WIDE else (8, 4)  # numbers of a register, rows at once
_REGISTERS = 3  # of a panel's row
_WIDTH = _LANES * _REGISTERS  # outputs of a panel
_LINE = 64  # bytes of a cache line, on which the first panel begins
_AHEAD = 2048  # bytes of the weight that are asked for before they are needed

_I32, _I64, _F32 = ir.IntType(32), ir.IntType(64), ir.FloatType()
_FLOATS, _WORDS = ir.VectorType(_F32, _LANES), ir.VectorType(_I32, _LANES)


def panels(weight_NK: torch.Tensor) -> torch.Tensor:
    """[P, K * width]: a panel's outputs lie side by side, for one input (float32) or two (bfloat16) after the other.

    Outputs that the last panel lacks are 0.
    """
    outputs, inputs = weight_NK.shape
    together = 4 // weight_NK.element_size()
    whole_NK = weight_NK.new_zeros(-(-outputs // _WIDTH) * _WIDTH, inputs)
    whole_NK[:outputs] = weight_NK
    blocks = whole_NK.view(-1, _WIDTH, inputs // together, together).transpose(1, 2)
    return blocks.reshape(-1, inputs * _WIDTH)


def room_for(arrays: Sequence[Numbers]) -> list[Numbers]:
    """Arrays of the same shapes in one piece of memory, not filled.

    numpy asks the system for huge pages, of which a piece of 4 MiB or less has few: with them a core reads up to a
    fifth faster.
    """
    sizes = [array.nbytes for array in arrays]
    whole = np.empty(sum(sizes) + _LINE, np.uint8)
    start = -whole.ctypes.data % _LINE
    ends = np.cumsum(sizes) + start
    parts = [whole[end - size : end] for end, size in zip(ends, sizes, strict=True)]
    return [cast(Numbers, part.view(a.dtype)).reshape(a.shape) for part, a in zip(parts, arrays, strict=True)]


def fits(weight_NK: torch.Tensor) -> bool:
    """Whether this processor can, and whether inputs of bfloat16 come in pairs."""
    return _CAN and weight_NK.dtype in _KINDS and weight_NK.size(1) * weight_NK.element_size() % 4 == 0


def _panel_product(
    _typing: Any, kind: Any, rows: Any, x: Any, x_bytes: Any, weight: Any, out: Any, out_bytes: Any
) -> Any:
    """Products of 1 to 8 (4) rows of an array like `kind` with a panel. The rest are addresses, and bytes of a row."""
    signature = types.void(kind, rows, x, x_bytes, weight, out, out_bytes)
    pairs = kind.dtype == types.uint16

    def generate(context: Any, builder: ir.IRBuilder, _signature: Any, arguments: list[Any]) -> Any:
        _, count, x_at, x_size, weight_at, out_at, out_size = arguments
        done = builder.append_basic_block("done")
        cases = builder.switch(count, done)
        for case in range(1, _ROWS + 1):
            block = builder.append_basic_block(f"rows{case}")
            cases.add_case(_I64(case), block)
            builder.position_at_end(block)
            xs = [builder.add(x_at, builder.mul(x_size, _I64(r))) for r in range(case)]
            for r, sums in enumerate(_sums(builder, xs, builder.udiv(x_size, _I64(4)), weight_at, pairs)):
                row_at = builder.add(out_at, builder.mul(out_size, _I64(r)))
                for v, value in enumerate(sums):
                    builder.store(value, _pointer(builder, row_at, v * _LANES * 4, _FLOATS), align=4)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return signature, generate


_multiply_panel: Any = intrinsic(_panel_product)


def _pointer(builder: ir.IRBuilder, at: Any, offset: int, kind: ir.Type) -> Any:
    return builder.inttoptr(builder.add(at, _I64(offset)), kind.as_pointer())


def _sums(builder: ir.IRBuilder, xs: list[Any], steps: Any, weight: Any, pairs: bool) -> list[list[Any]]:
    """The loop over a panel: for each row of x, the registers of its sums.

    A step reads 4 bytes of each row: one input, or `pairs`.
    """
    before, loop, after = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(loop)
    builder.position_at_end(loop)
    step = builder.phi(_I64)
    step.add_incoming(_I64(0), before)
    old = [[builder.phi(_FLOATS) for _ in range(_REGISTERS)] for _ in xs]
    at = builder.add(weight, builder.mul(step, _I64(_WIDTH * 4)))
    kind, number = (_WORDS, _I32) if pairs else (_FLOATS, _F32)
    weights = []
    for v in range(_REGISTERS):
        weights.append(builder.load(_pointer(builder, at, v * _LANES * 4, kind), align=4))
        _prefetch(builder, at, v * _LANES * 4 + _AHEAD)
    new = []
    for x, its_old in zip(xs, old, strict=True):
        one = builder.load(_pointer(builder, builder.add(x, builder.mul(step, _I64(4))), 0, number), align=4)
        none = ir.Constant(kind, ir.Undefined)
        same = builder.shuffle_vector(builder.insert_element(none, one, _I32(0)), none, _WORDS([0] * _LANES))
        new.append([_added(builder, total, same, w, pairs) for total, w in zip(its_old, weights, strict=True)])
    following = builder.add(step, _I64(1))
    step.add_incoming(following, loop)
    for its_old, its_new in zip(old, new, strict=True):
        for phi, value in zip(its_old, its_new, strict=True):
            phi.add_incoming(_FLOATS([0.0] * _LANES), before)
            phi.add_incoming(value, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, steps), loop, after)
    builder.position_at_end(after)
    return new


def _added(builder: ir.IRBuilder, total: Any, x: Any, weight: Any, pairs: bool) -> Any:
    """total + x weight, or the sum of two such products."""
    if pairs and processor_has("avx512bf16"):
        return _call(builder, "llvm.x86.avx512bf16.dpbf16ps.512", [total, x, weight])
    for one, other in zip(_halves(builder, x), _halves(builder, weight), strict=True) if pairs else [(x, weight)]:
        total = _call(builder, f"llvm.fma.v{_LANES}f32", [one, other, total])
    return total


def _halves(builder: ir.IRBuilder, words: Any) -> list[Any]:
    """The first and the second bfloat16 of each word, as float32."""
    first, second = builder.shl(words, _WORDS([16] * _LANES)), builder.and_(words, _WORDS([0xFFFF0000] * _LANES))
    return [builder.bitcast(half, _FLOATS) for half in (first, second)]


def _prefetch(builder: ir.IRBuilder, at: Any, offset: int) -> None:
    pointer = _pointer(builder, at, offset, ir.IntType(8))
    kind = ir.FunctionType(ir.VoidType(), [pointer.type, _I32, _I32, _I32])
    function = builder.module.declare_intrinsic("llvm.prefetch", [pointer.type], kind)
    builder.call(function, [pointer, _I32(0), _I32(3), _I32(1)])  # to read, to all caches, data


def _call(builder: ir.IRBuilder, name: str, arguments: list[Any]) -> Any:
    known, kind = builder.module.globals, ir.FunctionType(arguments[0].type, [one.type for one in arguments])
    return builder.call(known[name] if name in known else ir.Function(builder.module, kind, name), arguments)


def _multiply(x_BK: Numbers, panels_PX: Numbers, bias_N: F32, out_BN: F32) -> None:
    """out = x weight^T + bias; `bias_N` may have size 0."""
    rows, outputs = out_BN.shape
    blocks, x_bytes, panel_bytes = (rows + _ROWS - 1) // _ROWS, x_BK.strides[0], panels_PX.strides[0]
    for p in prange(len(panels_PX)):
        first = p * _WIDTH
        last = min(outputs, first + _WIDTH)
        weight = panels_PX.ctypes.data + p * panel_bytes
        for block in range(blocks):
            start, end = rows * block // blocks, rows * (block + 1) // blocks
            x = x_BK.ctypes.data + start * x_bytes
            if last - first == _WIDTH:
                out = out_BN.ctypes.data + (start * outputs + first) * 4
                _multiply_panel(x_BK, end - start, x, x_bytes, weight, out, outputs * 4)
            else:
                part = np.empty((_ROWS, _WIDTH), np.float32)
                _multiply_panel(x_BK, end - start, x, x_bytes, weight, part.ctypes.data, _WIDTH * 4)
                for b in range(start, end):
                    for n in range(first, last):
                        out_BN[b, n] = part[b - start, n - first]
        if len(bias_N):
            for b in range(rows):
                for n in range(first, last):
                    out_BN[b, n] += bias_N[n]


@cache
def multiply_for(dtype: torch.dtype) -> Callable[[Numbers, Numbers, F32, F32], None]:
    """`_multiply` for inputs and weights of this kind."""
    numbers = _KINDS[dtype]
    return compiled(_multiply, numbers, numbers, "float32[::1]", "float32[:,::1]", threads=True)
