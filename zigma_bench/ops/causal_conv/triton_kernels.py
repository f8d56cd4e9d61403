"""The causal convolution along a path, and its gradients, in Triton.

A program computes a tile of T steps and E channels of one sample. Each tap loads its own rows through the path, so that
tiles are independent; most of these loads hit the cache, because T is large compared with W.
"""

import triton
import triton.language as tl

SIZES = ["length", "channels", "x_batch", "x_row", "y_batch", "y_row"]


@triton.jit
def load_rows(path, step, there):
    """The rows of steps; row 0 if a step doesn't exist (its value isn't used)."""
    if path is None:
        row = tl.where(there, step, 0).to(tl.int64)
    else:
        row = tl.load(path + step, mask=there, other=0)
    return row[:, None]


@triton.jit
def compute_ages(segment_starts, step, there):
    """The number of steps before each step in its segment."""
    if segment_starts is None:
        age = step
    else:
        age = step - tl.load(segment_starts + step, mask=there, other=0).to(tl.int32)
    return age


@triton.jit
def load_tap(x, path, step, there, lag: tl.constexpr, age, x_row, e, inside):
    """The input `lag` steps before each step; zero before the segment."""
    known = there & (lag <= age)
    row = load_rows(path, step - lag, known)
    return tl.load(x + row * x_row + e, mask=known[:, None] & inside, other=0.0).to(tl.float32)


@triton.jit
def conv_kernel(
    x, y, weight, bias, path, segment_starts, x_batch, x_row, y_batch, y_row, length, channels,
    W: tl.constexpr, T: tl.constexpr, E: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """y [B, L, E]; weight [E, W] and bias [E], float32."""
    batch = tl.program_id(2).to(tl.int64)
    step = tl.program_id(1) * T + tl.arange(0, T)
    e = tl.program_id(0) * E + tl.arange(0, E)[None, :]
    there, inside = step < length, e < channels
    age = compute_ages(segment_starts, step, there)
    total = tl.zeros([T, E], tl.float32) + tl.load(bias + e, mask=inside, other=0.0)
    for k in tl.static_range(W):
        w = tl.load(weight + e * W + k, mask=inside, other=0.0)
        total += w * load_tap(x + batch * x_batch, path, step, there, W - 1 - k, age, x_row, e, inside)
    if SILU:
        total *= tl.sigmoid(total)
    to = y + batch * y_batch + load_rows(path, step, there) * y_row + e
    tl.store(to, total.to(y.dtype.element_ty), mask=there[:, None] & inside)


@triton.jit
def conv_gradients_kernel(
    x, grad, weight, bias, path, segment_starts, grad_x, grads, x_batch, x_row, y_batch, y_row, length, channels,
    W: tl.constexpr, T: tl.constexpr, E: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """grad_x [B, L, E]; grads [W + 1, B, tiles, E]: the gradients of each tap, then of the bias; `grad`: of the output.

    The gradient of an input comes from the outputs of its step and the W - 1 later ones, which are recomputed here.
    """
    batch, tile = tl.program_id(2).to(tl.int64), tl.program_id(1)
    step = tile * T + tl.arange(0, T)
    e = tl.program_id(0) * E + tl.arange(0, E)[None, :]
    there, inside = step < length, e < channels
    to = grads + (batch * tl.num_programs(1) + tile) * channels + e
    more = (
        tl.num_programs(2).to(tl.int64) * tl.num_programs(1) * channels
    )  # the stride between the gradients of two taps
    grad_x_ = tl.zeros([T, E], tl.float32)
    for lead in tl.static_range(W):
        later = step + lead
        known = later < length
        age = compute_ages(segment_starts, later, known)
        row = load_rows(path, later, known)
        slope = tl.load(grad + batch * y_batch + row * y_row + e, mask=known[:, None] & inside, other=0.0).to(
            tl.float32
        )
        if SILU:
            total = tl.zeros([T, E], tl.float32) + tl.load(bias + e, mask=inside, other=0.0)
            for k in tl.static_range(W):
                w = tl.load(weight + e * W + k, mask=inside, other=0.0)
                total += w * load_tap(x + batch * x_batch, path, later, known, W - 1 - k, age, x_row, e, inside)
            s = tl.sigmoid(total)
            slope *= s * (1.0 + total * (1.0 - s))
        w = tl.load(weight + e * W + (W - 1 - lead), mask=inside, other=0.0)
        grad_x_ += tl.where((known & (lead <= age))[:, None], w * slope, 0.0)
        if lead == 0:
            for k in tl.static_range(W):
                back = load_tap(x + batch * x_batch, path, step, there, W - 1 - k, age, x_row, e, inside)
                tl.store(to + k * more, tl.sum(slope * back, 0)[None, :], mask=inside)
            tl.store(to + W * more, tl.sum(slope, 0)[None, :], mask=inside)
    place = grad_x + (batch * length + load_rows(path, step, there)) * channels + e
    tl.store(place, grad_x_.to(grad_x.dtype.element_ty), mask=there[:, None] & inside)
