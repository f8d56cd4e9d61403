"""The residual norm and its gradients in Triton.

A program takes a strip of rows of one sample, ROWS at a time, and has all numbers of a row in registers. Gradients of
what all rows of a sample share are summed over the strip; the strips are added up by the caller, in one order.
"""

import triton
import triton.language as tl


@triton.jit
def vector(of, at, there):
    """Numbers that all rows share, in float32."""
    return tl.load(of + at, mask=there, other=0.0).to(tl.float32)


@triton.jit
def rate_of(x, width, eps):
    """1 / rms of each row."""
    return tl.rsqrt(tl.sum(x * x, 1)[:, None] / width + eps)


@triton.jit
def outputs(
    r, y, gate, before, kept, weight, shift, scale, r_out, m, gate_row, shift_row, scale_row, length, width, strip, eps,
    ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """r, y, r_out, m [B, L, D]; gate, shift, scale [B, D] in rows of their own; before, weight [D]; kept [B]."""
    batch = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, D)[None, :]
    inside = d < width
    move = vector(shift, batch * shift_row + d, inside)
    grow = vector(weight, d, inside) * (1.0 + vector(scale, batch * scale_row + d, inside))
    if y is not None:
        opened = vector(gate, batch * gate_row + d, inside)
        if before is not None:
            skip = vector(before, d, inside)
        if kept is not None:
            part = tl.load(kept + batch)
    start = tl.program_id(0) * strip
    for step in range(start, min(start + strip, length), ROWS):
        row = step + tl.arange(0, ROWS)[:, None]
        there = (row < length) & inside
        at = (batch * length + row) * width + d
        x = tl.load(r + at, mask=there, other=0.0)
        if y is not None:
            added = opened * tl.load(y + at, mask=there, other=0.0).to(tl.float32)
            if before is not None:
                added += x * rate_of(x, width, eps) * skip
            if kept is not None:
                added *= part
            x += added
        tl.store(r_out + at, x, mask=there)
        tl.store(m + at, (x * rate_of(x, width, eps) * grow + move).to(m.dtype.element_ty), mask=there)


@triton.jit
def gradients(
    of_r_out, of_m, r, y, r_out, gate, before, kept, weight, shift, scale, of_r, of_y, m, of_sample, of_all,
    gate_row, shift_row, scale_row, length, width, strip, eps,
    ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """of_r, of_y as r and y; of_sample [B, strips, 3, D]: of shift, scale, gate; of_all [B, strips, 2, D]: of weight,
    before. m is written again, if it is given: it may lie where of_m does."""
    batch = tl.program_id(1).to(tl.int64)
    d = tl.arange(0, D)[None, :]
    inside = d < width
    w, more = vector(weight, d, inside), 1.0 + vector(scale, batch * scale_row + d, inside)
    move = vector(shift, batch * shift_row + d, inside)
    if y is not None:
        opened = vector(gate, batch * gate_row + d, inside)
        if before is not None:
            skip = vector(before, d, inside)
        if kept is not None:
            part = tl.load(kept + batch)
    sum_m, sum_n = tl.zeros([ROWS, D], tl.float32), tl.zeros([ROWS, D], tl.float32)
    sum_y, sum_x = tl.zeros([ROWS, D], tl.float32), tl.zeros([ROWS, D], tl.float32)
    start = tl.program_id(0) * strip
    for step in range(start, min(start + strip, length), ROWS):
        row = step + tl.arange(0, ROWS)[:, None]
        there = (row < length) & inside
        at = (batch * length + row) * width + d
        x = tl.load(r_out + at, mask=there, other=0.0)
        g = tl.load(of_m + at, mask=there, other=0.0).to(tl.float32)
        total = tl.load(of_r_out + at, mask=there, other=0.0)
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
            if kept is not None:
                g *= part
            sum_y += g * tl.load(y + at, mask=there, other=0.0).to(tl.float32)
            tl.store(of_y + at, (g * opened).to(of_y.dtype.element_ty), mask=there)
            if before is not None:
                x = tl.load(r + at, mask=there, other=0.0)
                rate = rate_of(x, width, eps)
                n = x * rate
                sum_x += g * n
                g *= skip
                total += rate * (g - n * (tl.sum(g * n, 1)[:, None] / width))
        tl.store(of_r + at, total, mask=there)
    strips = tl.num_programs(0)
    place = (batch * strips + tl.program_id(0)) * width + d
    sums = tl.sum(sum_n, 0)[None, :]
    tl.store(of_sample + 3 * place - 2 * d, tl.sum(sum_m, 0)[None, :], mask=inside)
    tl.store(of_sample + 3 * place - 2 * d + width, sums * w, mask=inside)
    tl.store(of_all + 2 * place - d, sums * more, mask=inside)
    if y is not None:
        tl.store(of_sample + 3 * place - 2 * d + 2 * width, tl.sum(sum_y, 0)[None, :], mask=inside)
        if before is not None:
            tl.store(of_all + 2 * place - d + width, tl.sum(sum_x, 0)[None, :], mask=inside)


@triton.jit
def total(of, first, count, step, d, inside, ROWS: tl.constexpr, D: tl.constexpr):
    """The sum of `count` rows, `step` numbers apart, in one order."""
    found = tl.zeros([ROWS, D], tl.float32)
    for start in range(0, count, ROWS):
        row = start + tl.arange(0, ROWS)[:, None]
        found += tl.load(of + first + row * step + d, mask=(row < count) & inside, other=0.0)
    return tl.sum(found, 0)[None, :]


@triton.jit
def keep(to, at, found, inside):
    if to is not None:
        tl.store(to + at, found.to(to.dtype.element_ty), mask=inside)


@triton.jit
def add_up(
    of_sample, of_all, of_gate, of_before, of_weight, of_shift, of_scale, strips, samples, width,
    ROWS: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """The strips of `gradients` added up: of_gate, of_shift, of_scale [B, D]; of_before, of_weight [D]."""
    d = tl.program_id(0) * D + tl.arange(0, D)[None, :]
    inside = d < width
    batch = tl.program_id(1).to(tl.int64)
    if batch < samples:
        first = batch * strips * 3 * width
        keep(of_shift, batch * width + d, total(of_sample, first, strips, 3 * width, d, inside, ROWS, D), inside)
        first += width
        keep(of_scale, batch * width + d, total(of_sample, first, strips, 3 * width, d, inside, ROWS, D), inside)
        if of_gate is not None:
            first += width
            keep(of_gate, batch * width + d, total(of_sample, first, strips, 3 * width, d, inside, ROWS, D), inside)
    else:
        keep(of_weight, d, total(of_all, 0, samples * strips, 2 * width, d, inside, ROWS, D), inside)
        if of_before is not None:
            keep(of_before, d, total(of_all, width, samples * strips, 2 * width, d, inside, ROWS, D), inside)
