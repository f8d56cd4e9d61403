"""The residual norm and its gradients in Triton.

A program processes a strip of rows of one sample, ROWS at a time, with whole rows in registers. Gradients of vectors
that all rows of a sample share are summed over the strip; `add_strips_kernel` adds the strips in a fixed order.
"""

import triton
import triton.language as tl


@triton.jit
def vector(of, at, there):
    """Load a vector that all rows share, in float32."""
    return tl.load(of + at, mask=there, other=0.0).to(tl.float32)


@triton.jit
def rate_of(x, width, eps):
    """1 / rms of each row."""
    return tl.rsqrt(tl.sum(x * x, 1)[:, None] / width + eps)


@triton.jit
def residual_norm_kernel(
    r, y, gate, skip, factor, weight, shift, scale, r_out, m, gate_row, shift_row, scale_row, length, width, strip, eps,
    ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """r, y, r_out, m [B, L, D]; gate, shift, scale [B, D] with separate strides; skip, weight [D]; factor [B]."""
    batch = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, D)[None, :]
    inside = d < width
    move = vector(shift, batch * shift_row + d, inside)
    grow = vector(weight, d, inside) * (1.0 + vector(scale, batch * scale_row + d, inside))
    if y is not None:
        opened = vector(gate, batch * gate_row + d, inside)
        if skip is not None:
            skip_ = vector(skip, d, inside)
        if factor is not None:
            factor_ = tl.load(factor + batch)
    start = tl.program_id(0) * strip
    for step in range(start, min(start + strip, length), ROWS):
        row = step + tl.arange(0, ROWS)[:, None]
        there = (row < length) & inside
        at = (batch * length + row) * width + d
        x = tl.load(r + at, mask=there, other=0.0)
        if y is not None:
            added = opened * tl.load(y + at, mask=there, other=0.0).to(tl.float32)
            if skip is not None:
                added += x * rate_of(x, width, eps) * skip_
            if factor is not None:
                added *= factor_
            x += added
        tl.store(r_out + at, x, mask=there)
        tl.store(m + at, (x * rate_of(x, width, eps) * grow + move).to(m.dtype.element_ty), mask=there)


@triton.jit
def residual_norm_gradients_kernel(
    grad_r_out, grad_m, r, y, r_out, gate, skip, factor, weight, shift, scale, grad_r, grad_y, m, grad_sample, grad_all,
    gate_row, shift_row, scale_row, length, width, strip, eps,
    ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """grad_r, grad_y like r and y; grad_sample [B, strips, 3, D] of shift, scale and gate; grad_all [B, strips, 2, D]
    of weight and skip. If m is not None, m is recomputed and written there; it may be the memory of grad_m."""
    batch = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, D)[None, :]
    inside = d < width
    w, more = vector(weight, d, inside), 1.0 + vector(scale, batch * scale_row + d, inside)
    move = vector(shift, batch * shift_row + d, inside)
    if y is not None:
        opened = vector(gate, batch * gate_row + d, inside)
        if skip is not None:
            skip_ = vector(skip, d, inside)
        if factor is not None:
            factor_ = tl.load(factor + batch)
    sum_m, sum_n = tl.zeros([ROWS, D], tl.float32), tl.zeros([ROWS, D], tl.float32)
    sum_y, sum_x = tl.zeros([ROWS, D], tl.float32), tl.zeros([ROWS, D], tl.float32)
    start = tl.program_id(0) * strip
    for step in range(start, min(start + strip, length), ROWS):
        row = step + tl.arange(0, ROWS)[:, None]
        there = (row < length) & inside
        at = (batch * length + row) * width + d
        x = tl.load(r_out + at, mask=there, other=0.0)
        g = tl.load(grad_m + at, mask=there, other=0.0).to(tl.float32)
        total = tl.load(grad_r_out + at, mask=there, other=0.0)
        rate = rate_of(x, width, eps)
        n = x * rate
        sum_m += g
        sum_n += g * n
        if m is not None:
            tl.store(m + at, (n * w * more + move).to(m.dtype.element_ty), mask=there)
        g *= w * more
        total += rate * (g - n * (tl.sum(g * n, 1)[:, None] / width))
        if y is not None:
            g = total
            if factor is not None:
                g *= factor_
            sum_y += g * tl.load(y + at, mask=there, other=0.0).to(tl.float32)
            tl.store(grad_y + at, (g * opened).to(grad_y.dtype.element_ty), mask=there)
            if skip is not None:
                x = tl.load(r + at, mask=there, other=0.0)
                rate = rate_of(x, width, eps)
                n = x * rate
                sum_x += g * n
                g *= skip_
                total += rate * (g - n * (tl.sum(g * n, 1)[:, None] / width))
        tl.store(grad_r + at, total, mask=there)
    strips = tl.num_programs(0)
    place = (batch * strips + tl.program_id(0)) * width + d
    sums = tl.sum(sum_n, 0)[None, :]
    tl.store(grad_sample + 3 * place - 2 * d, tl.sum(sum_m, 0)[None, :], mask=inside)
    tl.store(grad_sample + 3 * place - 2 * d + width, sums * w, mask=inside)
    tl.store(grad_all + 2 * place - d, sums * more, mask=inside)
    if y is not None:
        tl.store(grad_sample + 3 * place - 2 * d + 2 * width, tl.sum(sum_y, 0)[None, :], mask=inside)
        if skip is not None:
            tl.store(grad_all + 2 * place - d + width, tl.sum(sum_x, 0)[None, :], mask=inside)


@triton.jit
def sum_rows(of, first, count, step, d, inside, ROWS: tl.constexpr, D: tl.constexpr):
    """The sum of `count` rows, `step` numbers apart, in a fixed order."""
    found = tl.zeros([ROWS, D], tl.float32)
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        found += tl.load(of + first + row * step + d, mask=(row < count) & inside, other=0.0)
    return tl.sum(found, 0)[None, :]


@triton.jit
def store_sum(to, at, found, inside):
    if to is not None:
        tl.store(to + at, found.to(to.dtype.element_ty), mask=inside)


@triton.jit
def add_strips_kernel(
    grad_sample, grad_all, grad_gate, grad_skip, grad_weight, grad_shift, grad_scale, strips, samples, width,
    ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """Add the strips of `residual_norm_gradients_kernel`.

    grad_gate, grad_shift, grad_scale [B, D]; grad_skip, grad_weight [D]."""
    d = tl.program_id(0) * D + tl.arange(0, D)[None, :]
    inside = d < width
    batch = tl.program_id(1).to(tl.int64)
    if batch < samples:
        first, at = batch * strips * 3 * width, batch * width + d
        store_sum(grad_shift, at, sum_rows(grad_sample, first, strips, 3 * width, d, inside, ROWS, D), inside)
        first += width
        store_sum(grad_scale, at, sum_rows(grad_sample, first, strips, 3 * width, d, inside, ROWS, D), inside)
        if grad_gate is not None:
            first += width
            store_sum(
                grad_gate,
                at,
                sum_rows(grad_sample, first, strips, 3 * width, d, inside, ROWS, D),
                inside,
            )
    else:
        store_sum(grad_weight, d, sum_rows(grad_all, 0, samples * strips, 2 * width, d, inside, ROWS, D), inside)
        if grad_skip is not None:
            store_sum(grad_skip, d, sum_rows(grad_all, width, samples * strips, 2 * width, d, inside, ROWS, D), inside)
