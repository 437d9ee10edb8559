"""The small operations of a decoding step on a CPU, each in one pass over its numbers.

torch takes 5 to 40 microseconds for an operation, however few its numbers are. A layer has 25 of them between its
matrix products, which takes a small model as long as the products do. All is computed in float32. Axes: B rows, H
hidden, F feed-forward, Q query heads, K key-value heads, N = Q + 2 K, D head size, P prompts, L and C columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numba import prange

from s2l_nemo.engines.embedded.compiled import F32, F64, I64, Numbers, compiled, narrow, part

_VECTOR, _MATRIX, _CUBE, _STATES = (f"float32[{':,' * axes}::1]" for axes in (0, 1, 2, 4))
_INDICES = "int64[::1]"
_ONE = np.float32(1)
_BLOCK = 256  # probabilities that are added up at once


@part
def _exp(x: np.float32) -> np.float32:
    """e^x within 3e-7, relatively, for x up to 88; 0 below -87. A form of which compilers make vectors.

    2^n times a polynomial in what is left of x; the coefficients are those of Cephes' expf.
    """
    within = x if x > np.float32(-87) else np.float32(-87)  # not a number: -87
    n = np.int32(within * np.float32(1.4426950408889634) + np.float32(126.5)) - np.int32(126)
    r = x - np.float32(n) * np.float32(0.693359375) + np.float32(n) * np.float32(2.12194440e-4)
    p = np.float32(1.9875691500e-4)
    p = p * r + np.float32(1.3981999507e-3)
    p = p * r + np.float32(8.3334519073e-3)
    p = p * r + np.float32(4.1665795894e-2)
    p = p * r + np.float32(1.6666665459e-1)
    p = p * r + np.float32(5.0000001201e-1)
    power: np.float32 = np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)
    value = np.float32((p * r * r + r + _ONE) * power)
    return np.float32(0) if x < np.float32(-87) else value  # not a number: stays so


def _add_norm(x_BH: F32, delta_BH: F32, weight_H: F32, eps: np.float32, out_BH: Numbers) -> None:
    """x += delta; out = RMSNorm(x)."""
    rows, size = x_BH.shape
    for b in range(rows):
        total = np.float32(0)
        for h in range(size):
            x = x_BH[b, h] + delta_BH[b, h]
            x_BH[b, h] = x
            total += x * x
        inverse = _ONE / np.sqrt(total / np.float32(size) + eps)
        for h in range(size):
            out_BH[b, h] = narrow(x_BH[b, h] * inverse * weight_H[h], out_BH[b, h])


def _gate(gate_up_BX: F32, out_BF: Numbers) -> None:
    """out = silu(gate) * up. The gates of a row come before its ups: X = 2 F."""
    rows, size = out_BF.shape
    for b in range(rows):
        for f in range(size):
            gate = gate_up_BX[b, f]
            power = -gate
            power = np.float32(88) if power > np.float32(88) else power
            out_BF[b, f] = narrow(gate / (_ONE + _exp(power)) * gate_up_BX[b, size + f], out_BF[b, f])


def _turn(heads_BX: F32, weight_2D: F32, eps: np.float32, cos_BD: F32, sin_BD: F32, queries: int, out_BND: F32) -> None:
    """out = heads, of which queries and keys are rotated to their position; X = N D.

    A row's heads are its queries, its keys, its values. First come RMSNorms of queries and keys, with a weight for each
    of the two. A model without them has `weight_2D` of size 0.
    """
    rows, heads, size = out_BND.shape
    half, rotated = size // 2, (heads + queries) // 2
    for b in range(rows):
        for n in range(heads):
            for d in range(size):
                out_BND[b, n, d] = heads_BX[b, n * size + d]
        for n in range(rotated):
            if weight_2D.size:
                kind = 1 if n >= queries else 0
                total = np.float32(0)
                for d in range(size):
                    total += out_BND[b, n, d] * out_BND[b, n, d]
                inverse = _ONE / np.sqrt(total / np.float32(size) + eps)
                for d in range(size):
                    out_BND[b, n, d] *= inverse * weight_2D[kind, d]
            for d in range(half):
                first, second = out_BND[b, n, d], out_BND[b, n, d + half]
                out_BND[b, n, d] = first * cos_BD[b, d] - second * sin_BD[b, d]
                out_BND[b, n, d + half] = second * cos_BD[b, d + half] + first * sin_BD[b, d + half]


@part
def _score(query_GD: F32, keys_LD: F32, scores_GL: F32) -> None:
    """scores = query keys^T. Four keys at once: a query is read once for them."""
    (group, size), length = query_GD.shape, scores_GL.shape[1]
    for g in range(group):
        for i in range(0, length - 3, 4):
            a = b = c = d = np.float32(0)
            for j in range(size):
                q = query_GD[g, j]
                a += q * keys_LD[i, j]
                b += q * keys_LD[i + 1, j]
                c += q * keys_LD[i + 2, j]
                d += q * keys_LD[i + 3, j]
            scores_GL[g, i], scores_GL[g, i + 1], scores_GL[g, i + 2], scores_GL[g, i + 3] = a, b, c, d
        for i in range(length - length % 4, length):
            a = np.float32(0)
            for j in range(size):
                a += query_GD[g, j] * keys_LD[i, j]
            scores_GL[g, i] = a


@part
def _weigh(weight_L: F32, values_LD: F32, out_D: F32) -> None:
    """out += weight values. Four values at once: `out` is written once for them."""
    length, size = len(weight_L), len(out_D)
    for i in range(0, length - 3, 4):
        a, b, c, d = weight_L[i], weight_L[i + 1], weight_L[i + 2], weight_L[i + 3]
        for j in range(size):
            first = a * values_LD[i, j] + b * values_LD[i + 1, j]
            out_D[j] += first + c * values_LD[i + 2, j] + d * values_LD[i + 3, j]
    for i in range(length - length % 4, length):
        for j in range(size):
            out_D[j] += weight_L[i] * values_LD[i, j]


@part
def _softmax(scores_L: F32, scale: np.float32) -> np.float32:
    """Turns scores into e^(scale (score - highest)) in place. Returns their sum."""
    top = scores_L[0]
    for i in range(len(scores_L)):
        top = scores_L[i] if scores_L[i] > top else top
    total = np.float32(0)
    for i in range(len(scores_L)):
        weight = _exp(scale * (scores_L[i] - top))
        scores_L[i] = weight
        total += weight
    return total


@part
def _attend_one(
    b: int,
    k: int,
    heads_BND: F32,
    answers_2RKCD: F32,
    prompts_2PKLD: F32,
    column: int,
    prompt: int,
    length: int,
    out_BX: Numbers,
) -> None:
    """Of row b, the query heads of key-value head k. `length` is the prompt's."""
    (_, heads, size), key_values = heads_BND.shape, answers_2RKCD.shape[2]
    queries, own = heads - 2 * key_values, column + 1
    group, scale = queries // key_values, np.float32(1 / np.sqrt(size))
    for j in range(size):
        answers_2RKCD[0, b, k, column, j] = heads_BND[b, queries + k, j]
        answers_2RKCD[1, b, k, column, j] = heads_BND[b, queries + key_values + k, j]
    scores_GL, sum_D = np.empty((group, length + own), np.float32), np.empty(size, np.float32)
    query_GD = heads_BND[b, k * group : (k + 1) * group]
    _score(query_GD, prompts_2PKLD[0, prompt, k], scores_GL[:, :length])
    _score(query_GD, answers_2RKCD[0, b, k], scores_GL[:, length:])
    for g in range(group):
        total, at = _softmax(scores_GL[g], scale), (k * group + g) * size
        sum_D[:] = np.float32(0)
        _weigh(scores_GL[g, :length], prompts_2PKLD[1, prompt, k], sum_D)
        _weigh(scores_GL[g, length:], answers_2RKCD[1, b, k], sum_D)
        for j in range(size):
            out_BX[b, at + j] = narrow(sum_D[j] / total, out_BX[b, at + j])


def _attend(
    heads_BND: F32,
    answers_2RKCD: F32,
    prompts_2PKLD: F32,
    column_B: I64,
    prompt_B: I64,
    length_P: I64,
    out_BX: Numbers,
) -> None:
    """Stores each row's key and value in its column. out = attention to its prompt and its answer; X = Q D.

    The prompt of a row is number `prompt_B[b]`, whose length is `length_P` of that.
    """
    rows, key_values = len(heads_BND), answers_2RKCD.shape[2]
    for item in prange(key_values * rows):  # rows one after the other read the same prompt, which stays in the cache
        b, p = item % rows, prompt_B[item % rows]
        _attend_one(b, item // rows, heads_BND, answers_2RKCD, prompts_2PKLD, column_B[b], p, length_P[p], out_BX)


@part
def _draw_one(logits_V: F32, top: np.float32, uniform: float) -> tuple[int, np.float32]:
    vocabulary, blocks, total = len(logits_V), (len(logits_V) + _BLOCK - 1) // _BLOCK, 0.0
    weight_V, ends_N = np.empty(vocabulary, np.float32), np.empty(blocks)
    for v in range(vocabulary):
        weight_V[v] = _exp(logits_V[v] - top)
    for n in range(blocks):
        for weight in weight_V[n * _BLOCK : (n + 1) * _BLOCK]:
            total += weight
        ends_N[n] = total
    threshold, n = uniform * total, 0
    while n < blocks - 1 and ends_N[n] <= threshold:
        n += 1
    so_far, token = ends_N[n - 1] if n else 0.0, 0
    for v in range(n * _BLOCK, vocabulary):
        if weight_V[v] > 0:  # sums in two orders may differ in the last bit: then it is the last one with a weight
            token = v
        so_far += weight_V[v]
        if so_far > threshold:
            break
    return token, logits_V[token] - top - np.float32(np.log(total))


def _draw(logits_BV: F32, top_B: F32, uniform_B: F64, token_B: I64, logprob_B: F32) -> None:
    """Each row's first token whose cumulative probability exceeds the row's number in [0, 1), and its log-probability.

    `top_B` are the highest logits.

    Sums are float64, in blocks, so that the order in which a vocabulary is added up hardly matters.
    """
    for b in prange(len(logits_BV)):
        token_B[b], logprob_B[b] = _draw_one(logits_BV[b], top_B[b], uniform_B[b])


@dataclass(frozen=True)
class Kernels:
    """Those that write the inputs of matrix products, for one kind of numbers."""

    add_norm: Callable[[F32, F32, F32, np.float32, Numbers], None]
    attend: Callable[[F32, F32, F32, I64, I64, I64, Numbers], None]
    gate: Callable[[F32, Numbers], None]

    @classmethod
    @cache
    def of(cls, kind: np.dtype[Any]) -> Kernels:
        """For float32, or uint16 for the bits of bfloat16."""
        numbers = f"{kind}[:,::1]"
        return cls(
            add_norm=compiled(_add_norm, _MATRIX, _MATRIX, _VECTOR, "float32", numbers),
            attend=compiled(_attend, _CUBE, _STATES, _STATES, _INDICES, _INDICES, _INDICES, numbers, threads=True),
            gate=compiled(_gate, _MATRIX, numbers),
        )


turn = compiled(_turn, _MATRIX, _MATRIX, "float32", _MATRIX, _MATRIX, "int64", _CUBE)
draw = compiled(_draw, _MATRIX, _VECTOR, "float64[::1]", _INDICES, _VECTOR, threads=True)
