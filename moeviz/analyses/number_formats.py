"""Formats of stored weights, and the cost of rounding to them: floats, and the blocks of GGUF."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Decode = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """A number format: numbers and bytes of a block, and how (N, block_bytes) become (N, numbers) in float32."""

    block: int
    block_bytes: int
    decode: Decode
    rounding: float  # at most so large is the difference that it makes to normal weights, as a share of their norm


def _of(dtype: str) -> Decode:
    return lambda data: data.view(dtype).astype(np.float32)


def _bfloat16(data: np.ndarray) -> np.ndarray:
    return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _float8(exponent_bits: int, bias: int) -> Decode:
    """Decode a sign, `exponent_bits` and a mantissa, by a table of all 256. E4M3 has no infinities."""
    codes = np.arange(256)
    mantissa_bits = 7 - exponent_bits
    exponent, mantissa = codes >> mantissa_bits & 2**exponent_bits - 1, codes & 2**mantissa_bits - 1
    fraction = mantissa / 2**mantissa_bits + (exponent > 0)
    values = fraction * 2.0 ** (np.maximum(exponent, 1) - bias) * np.where(codes < 128, 1, -1)
    if exponent_bits == 4:
        values[[0x7F, 0xFF]] = np.nan
    else:
        values[exponent == 2**exponent_bits - 1] = np.nan
    table = values.astype(np.float32)
    return lambda data: table[data]


def _half(data: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(data).view("<f2").astype(np.float32)


def _q8_0(data: np.ndarray) -> np.ndarray:
    return _half(data[:, :2]) * data[:, 2:].view(np.int8)


def _codes(data: np.ndarray, run: int, *shifts: int) -> np.ndarray:
    """Return (N, codes) from packed bytes: each run of bytes holds as many runs of codes as there are shifts."""
    mask = (1 << 8 // len(shifts)) - 1
    runs = data.reshape(len(data), -1, 1, run) >> np.array(shifts, np.uint8)[:, None] & mask
    return runs.reshape(len(data), -1).astype(np.float32)


def _high_bits(data: np.ndarray) -> np.ndarray:
    """Return (N, 32) the fifth bit of each code."""
    return np.unpackbits(data, axis=1, bitorder="little").astype(np.float32) * 16


def _q4_0(data: np.ndarray) -> np.ndarray:
    return np.asarray(_half(data[:, :2]) * (_codes(data[:, 2:], 16, 0, 4) - 8))


def _q4_1(data: np.ndarray) -> np.ndarray:
    return np.asarray(_half(data[:, :2]) * _codes(data[:, 4:], 16, 0, 4) + _half(data[:, 2:4]))


def _q5_0(data: np.ndarray) -> np.ndarray:
    return np.asarray(_half(data[:, :2]) * (_codes(data[:, 6:], 16, 0, 4) + _high_bits(data[:, 2:6]) - 16))


def _q5_1(data: np.ndarray) -> np.ndarray:
    codes = _codes(data[:, 8:], 16, 0, 4) + _high_bits(data[:, 4:8])
    return np.asarray(_half(data[:, :2]) * codes + _half(data[:, 2:4]))


def _of_parts(codes: np.ndarray, scale: np.ndarray, least: np.ndarray | float = 0.0) -> np.ndarray:
    """Return (N, 256) from codes, and scales (N, parts) of equal parts, less the parts' own amounts."""
    parts = codes.reshape(*scale.shape, -1) * scale[..., None]
    return np.asarray((parts - (least[..., None] if isinstance(least, np.ndarray) else least)).reshape(len(codes), -1))


def _six_bits(data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, 8) scales and (N, 8) amounts from 12 bytes: four of each whole, the rest in the leftover bits."""
    scales, amounts, rest = data[:, :4], data[:, 4:8], data[:, 8:]
    first = np.hstack([scales & 63, rest & 15 | scales >> 6 << 4])
    second = np.hstack([amounts & 63, rest >> 4 | amounts >> 6 << 4])
    return first.astype(np.float32), second.astype(np.float32)


def _q2_k(data: np.ndarray) -> np.ndarray:
    scale, amount = _half(data[:, 80:82]) * (data[:, :16] & 15), _half(data[:, 82:84]) * (data[:, :16] >> 4)
    return _of_parts(_codes(data[:, 16:80], 32, 0, 2, 4, 6), scale, amount)


def _q3_k(data: np.ndarray) -> np.ndarray:
    codes = _codes(data[:, 32:96], 32, 0, 2, 4, 6) + 4 * _codes(data[:, :32], 32, *range(8)) - 4
    low, high = _codes(data[:, 96:104], 8, 0, 4), _codes(data[:, 104:108], 4, 0, 2, 4, 6)
    return _of_parts(codes, _half(data[:, 108:110]) * (low + 16 * high - 32))


def _q4_k(data: np.ndarray) -> np.ndarray:
    scale, amount = _six_bits(data[:, 4:16])
    return _of_parts(_codes(data[:, 16:], 32, 0, 4), _half(data[:, :2]) * scale, _half(data[:, 2:4]) * amount)


def _q5_k(data: np.ndarray) -> np.ndarray:
    scale, amount = _six_bits(data[:, 4:16])
    codes = _codes(data[:, 48:], 32, 0, 4) + 16 * _codes(data[:, 16:48], 32, *range(8))
    return _of_parts(codes, _half(data[:, :2]) * scale, _half(data[:, 2:4]) * amount)


def _q6_k(data: np.ndarray) -> np.ndarray:
    codes = _codes(data[:, :128], 64, 0, 4) + 16 * _codes(data[:, 128:192], 32, 0, 2, 4, 6) - 32
    return _of_parts(codes, _half(data[:, 208:210]) * np.ascontiguousarray(data[:, 192:208]).view(np.int8))


FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)


def _mxfp4(data: np.ndarray) -> np.ndarray:
    codes = _codes(data[:, 1:], 16, 0, 4).astype(np.uint8)
    return np.asarray(np.ldexp(FLOAT4[codes], data[:, :1].astype(np.int32) - 127))


FORMATS = {
    "float64": NumberFormat(1, 8, _of("<f8"), 0.0),
    "float32": NumberFormat(1, 4, _of("<f4"), 0.0),
    "float16": NumberFormat(1, 2, _of("<f2"), 0.002),
    "bfloat16": NumberFormat(1, 2, _bfloat16, 0.004),
    "float8_e4m3": NumberFormat(1, 1, _float8(4, 7), 0.05),
    "float8_e5m2": NumberFormat(1, 1, _float8(5, 15), 0.1),
    "int8": NumberFormat(1, 1, _of("i1"), 0.03),
    "Q8_0": NumberFormat(32, 34, _q8_0, 0.015),
    "Q6_K": NumberFormat(256, 210, _q6_k, 0.04),
    "Q5_0": NumberFormat(32, 22, _q5_0, 0.1),
    "Q5_1": NumberFormat(32, 24, _q5_1, 0.1),
    "Q5_K": NumberFormat(256, 176, _q5_k, 0.08),
    "Q4_0": NumberFormat(32, 18, _q4_0, 0.2),
    "Q4_1": NumberFormat(32, 20, _q4_1, 0.18),
    "Q4_K": NumberFormat(256, 144, _q4_k, 0.16),
    "MXFP4": NumberFormat(32, 17, _mxfp4, 0.25),
    "Q3_K": NumberFormat(256, 110, _q3_k, 0.3),
    "Q2_K": NumberFormat(256, 84, _q2_k, 0.5),
}
