"""The selective scan along a path, in Triton: helpers, the kernel of the output, and that of the states between parts.

A program computes a block of channels of one sample over one part of the steps. The state [N, channels] is in
registers, one channel per lane, so that no step needs data from another lane. The rows of T steps are loaded before any
of them is computed, because the compiler doesn't move a load across a store. No pointer or stride is specialized on its
alignment, A is [N, E], and a step's B and C are [N]: wider loads, or adjacent numbers along N, would be spread over
lanes and converted at every step.
"""

import triton
import triton.language as tl

LOG2E, LN2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)
ROWS = ["u_batch", "u_row", "delta_batch", "delta_row", "z_batch", "z_row", "out_batch", "out_row"]
SIZES = ["length", "channels", "parts", "part"]
TENSORS = ["u", "delta", "z", "out", "A", "D", "bias", "staged", "initial", "saved", "ends", "sums"]


@triton.jit
def softplus(x):
    """log(1 + e^x): by its series for small e^x, because 1 + e^x would lose digits there."""
    e = tl.exp2(x * LOG2E)
    series = e * (1.0 + e * (-0.5 + e * (0.3333333333 + e * (-0.25 + e * 0.2))))
    y = tl.where(e < 0.0625, series, tl.log2(1.0 + e) * LN2)
    return tl.where(x > 20.0, x, y)


@triton.jit
def compute_step_size(raw, bias, there, SOFTPLUS: tl.constexpr):
    """d of a step; zero beyond the end, so that the state stays the same."""
    d = raw.to(tl.float32) + bias
    if SOFTPLUS:
        d = softplus(d)
    return tl.where(there, d, 0.0)


@triton.jit
def load_row(path, step, there):
    """The row of a step; row 0 beyond the end (its value isn't used)."""
    if path is None:
        row = tl.where(there, tl.cast(step, tl.int64), 0)
    else:
        row = tl.load(path + step, mask=there, other=0)
    return row


@triton.jit
def load_fresh(segment_starts, step, there):
    """Whether a segment starts at a step; step 0 continues from the initial state."""
    return (tl.load(segment_starts + step, mask=there, other=-1) == step) & (step > 0)


@triton.jit
def carry_over_part(h, A, ends, sums, place, channels, N: tl.constexpr, n, e, both):
    """The state (or adjoint) after a part: the part's own state from zero, plus the decayed state before the part."""
    total = tl.load(sums + place * channels + e, mask=e < channels, other=0.0)[None, :]
    end = tl.load(ends + place * channels * N + n * channels + e[None, :], mask=both, other=0.0)
    fresh = total == float("inf")  # a segment starts in the part: the state before it has no effect
    return tl.where(fresh, end, tl.exp2(tl.where(fresh, 0.0, total) * A) * h + end)


@triton.jit
def load_projection(staged, step, which: tl.constexpr, there, NB: tl.constexpr):
    """B (0) or C (1) of a step, [NB, 1]."""
    return tl.load(staged + (step * 2 + which) * NB + tl.arange(0, NB), mask=there, other=0.0)[:, None]


@triton.jit(do_not_specialize=["length", "B_batch", "B_row", "C_batch", "C_row"])
def stage_projections_kernel(
    B, C, path, staged, length, B_batch, B_row, C_batch, C_row, N: tl.constexpr, NB: tl.constexpr, T: tl.constexpr
):
    """B and C in the order of the steps: [B, L, 2, NB], float32, zero from N on."""
    batch = tl.program_id(1).to(tl.int64)
    step = tl.program_id(0) * T + tl.arange(0, T)
    row = load_row(path, step, step < length)[:, None]
    n = tl.arange(0, NB)[None, :]
    mask = (step < length)[:, None] & (n < N)
    b = tl.load(B + batch * B_batch + row * B_row + n, mask=mask, other=0.0)
    c = tl.load(C + batch * C_batch + row * C_row + n, mask=mask, other=0.0)
    to = staged + (batch * length + step[:, None]) * 2 * NB + n
    tl.store(to, b.to(tl.float32), mask=(step < length)[:, None])
    tl.store(to + NB, c.to(tl.float32), mask=(step < length)[:, None])


@triton.jit(do_not_specialize=ROWS + SIZES, do_not_specialize_on_alignment=TENSORS)
def scan_outputs_kernel(
    u, delta, z, out, A, D, bias, path, segment_starts, staged, initial, saved, ends, sums,
    u_batch, u_row, delta_batch, delta_row, z_batch, z_row, out_batch, out_row, length, channels, parts, part,
    N: tl.constexpr, NB: tl.constexpr, E: tl.constexpr, T: tl.constexpr, SAVE: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """out [B, L, E] from the state `initial` [B, N, E], else zero; with `saved`, the state before every SAVE-th step
    [B, L / SAVE, N, E].

    `ends` [B, parts, N, E] and `sums` [B, parts, E] are those of `carry_states_kernel`, if there are several parts.
    """
    batch, at = tl.program_id(1).to(tl.int64), tl.program_id(2)
    first = at * part
    stop = tl.minimum(first + part, length)
    e = tl.program_id(0) * E + tl.arange(0, E)
    n = tl.arange(0, NB)[:, None] + tl.zeros([1, E], tl.int32)
    inside = e < channels
    both = (n < N) & inside[None, :]
    A_ = tl.load(A + n * channels + e[None, :], mask=both, other=0.0) * LOG2E
    bias_ = tl.load(bias + e, mask=inside, other=0.0)
    D_ = tl.load(D + e, mask=inside, other=0.0)
    u += batch * u_batch
    delta += batch * delta_batch
    out += batch * out_batch
    staged += batch * length * 2 * NB
    h = tl.zeros([NB, E], tl.float32)
    if initial is not None:
        h = tl.load(initial + batch * channels * N + n * channels + e[None, :], mask=both, other=0.0)
    if ends is not None:
        for before in range(at):
            h = carry_over_part(h, A_, ends, sums, batch * parts + before, channels, N, n, e, both)
    for start in range(first, stop, T):
        if saved is not None:
            if start % SAVE == 0:
                chunk = batch * tl.cdiv(length, SAVE) + start // SAVE
                tl.store(saved + chunk * channels * N + n * channels + e[None, :], h, mask=both)
        rows, xs, raws, zs, ys = (), (), (), (), ()
        for t in tl.static_range(T):
            mask = inside & (start + t < stop)
            row = load_row(path, start + t, start + t < stop)
            rows = rows + (row,)
            xs = xs + (tl.load(u + row * u_row + e, mask=mask, other=0.0),)
            raws = raws + (tl.load(delta + row * delta_row + e, mask=mask, other=0.0),)
            if z is not None:
                zs = zs + (tl.load(z + batch * z_batch + row * z_row + e, mask=mask, other=0.0),)
        for t in tl.static_range(T):
            there = start + t < stop
            b = load_projection(staged, start + t, 0, there, NB)
            c = load_projection(staged, start + t, 1, there, NB)
            x = xs[t].to(tl.float32)
            d = compute_step_size(raws[t], bias_, there, SOFTPLUS)
            if segment_starts is not None:
                h = tl.where(load_fresh(segment_starts, start + t, there), 0.0, h)
            h = tl.exp2(d[None, :] * A_) * h + (d * x)[None, :] * b
            y = tl.sum(c * h, 0) + D_ * x
            if z is not None:
                gate = zs[t].to(tl.float32)
                y *= gate * tl.sigmoid(gate)
            ys = ys + (y,)
        for t in tl.static_range(T):
            tl.store(out + rows[t] * out_row + e, ys[t].to(out.dtype.element_ty), mask=inside & (start + t < stop))


@triton.jit(do_not_specialize=ROWS + SIZES, do_not_specialize_on_alignment=TENSORS)
def carry_states_kernel(
    u, delta, z, out, A, bias, path, segment_starts, staged, ends, sums,
    u_batch, u_row, delta_batch, delta_row, z_batch, z_row, out_batch, out_row, length, channels, parts, part,
    N: tl.constexpr, NB: tl.constexpr, E: tl.constexpr, T: tl.constexpr, SOFTPLUS: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """The state at the end of each part, from zero at its start, and the sum of its step sizes, inf at a segment start.

    With BACK, the adjoint at the beginning of each part, from its last step to its first; `out` is then the output's
    gradient.
    """
    batch = tl.program_id(1).to(tl.int64)
    at = tl.program_id(2) + BACK  # the end of the last part isn't needed; with BACK, the start of the first
    first = at * part
    stop = tl.minimum(first + part, length)
    e = tl.program_id(0) * E + tl.arange(0, E)
    n = tl.arange(0, NB)[:, None] + tl.zeros([1, E], tl.int32)
    inside = e < channels
    both = (n < N) & inside[None, :]
    A_ = tl.load(A + n * channels + e[None, :], mask=both, other=0.0) * LOG2E
    bias_ = tl.load(bias + e, mask=inside, other=0.0)
    staged += batch * length * 2 * NB
    h = tl.zeros([NB, E], tl.float32)
    total = tl.zeros([E], tl.float32)
    for walked in range(0, stop - first, T):
        for t in tl.static_range(T):
            there = walked + t < stop - first
            mask = inside & there
            step = first + walked + t
            if BACK:
                step = stop - 1 - walked - t
            row = load_row(path, step, there)
            raw = tl.load(delta + batch * delta_batch + row * delta_row + e, mask=mask, other=0.0)
            d = compute_step_size(raw, bias_, there, SOFTPLUS)
            decay = tl.exp2(d[None, :] * A_)
            if BACK:
                flow = tl.load(out + batch * out_batch + row * out_row + e, mask=mask, other=0.0).to(tl.float32)
                if z is not None:
                    gate = tl.load(z + batch * z_batch + row * z_row + e, mask=mask, other=0.0).to(tl.float32)
                    flow *= gate * tl.sigmoid(gate)
                c = load_projection(staged, step, 1, there, NB)
                h = decay * (flow[None, :] * c + h)
            total += d
            if segment_starts is not None:
                fresh = load_fresh(segment_starts, step, there)
                h = tl.where(fresh, 0.0, h)
                total = tl.where(fresh, float("inf"), total)
            if not BACK:
                x = tl.load(u + batch * u_batch + row * u_row + e, mask=mask, other=0.0).to(tl.float32)
                b = load_projection(staged, step, 0, there, NB)
                h = decay * h + (d * x)[None, :] * b
    place = batch * parts + at
    tl.store(ends + place * channels * N + n * channels + e[None, :], h, mask=both)
    tl.store(sums + place * channels + e, total, mask=inside)
