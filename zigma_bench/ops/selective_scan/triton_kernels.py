"""The selective scan along a path, in Triton: what the passes share, the output, and what a part hands on.

A program takes a block of channels of one sample and one part of the steps; the state [N, channels] is in registers,
a channel to a lane, so that time never crosses lanes. The rows of T steps are read before any of them is computed:
a load is not moved over a store. No pointer or stride is specialised on alignment, A comes as [N, E], and a step's B
and C as [N]: wider pieces, or numbers side by side along N, would be spread over lanes and converted at every step.
"""

import triton
import triton.language as tl

LOG2E, LN2 = tl.constexpr(1.4426950408889634), tl.constexpr(0.6931471805599453)
ROWS = ["u_batch", "u_row", "delta_batch", "delta_row", "z_batch", "z_row", "out_batch", "out_row"]
SIZES = ["length", "channels", "parts", "part"]
TENSORS = ["u", "delta", "z", "out", "A", "D", "bias", "staged", "initial", "saved", "ends", "sums"]


@triton.jit
def softplus(x):
    """log(1 + e^x): by its series where e^x is small, since 1 + e^x would lose its digits there."""
    e = tl.exp2(x * LOG2E)
    series = e * (1.0 + e * (-0.5 + e * (0.3333333333 + e * (-0.25 + e * 0.2))))
    y = tl.where(e < 0.0625, series, tl.log2(1.0 + e) * LN2)
    return tl.where(x > 20.0, x, y)


@triton.jit
def step_size(raw, bias, there, SOFTPLUS: tl.constexpr):
    """d of a step; zero beyond the end, where nothing changes."""
    d = raw.to(tl.float32) + bias
    if SOFTPLUS:
        d = softplus(d)
    return tl.where(there, d, 0.0)


@triton.jit
def row_at(path, step, there):
    """The row of a step; row 0, which is not used, beyond the end."""
    if path is None:
        row = tl.where(there, tl.cast(step, tl.int64), 0)
    else:
        row = tl.load(path + step, mask=there, other=0)
    return row


@triton.jit
def starts(since, step, there):
    """Whether a segment starts at a step; the first one goes on from the state that is given."""
    return (tl.load(since + step, mask=there, other=-1) == step) & (step > 0)


@triton.jit
def carry(h, A, ends, sums, place, channels, N: tl.constexpr, n, e, both):
    """The state (or adjoint) beyond a part, from that before it: the part's own from zero, and what passes through."""
    total = tl.load(sums + place * channels + e, mask=e < channels, other=0.0)[None, :]
    end = tl.load(ends + place * channels * N + n * channels + e[None, :], mask=both, other=0.0)
    fresh = total == float("inf")  # a segment starts in the part: nothing passes through
    return tl.where(fresh, end, tl.exp2(tl.where(fresh, 0.0, total) * A) * h + end)


@triton.jit
def projected(staged, step, which: tl.constexpr, there, NB: tl.constexpr):
    """B (0) or C (1) of a step, [NB, 1]."""
    return tl.load(staged + (step * 2 + which) * NB + tl.arange(0, NB), mask=there, other=0.0)[:, None]


@triton.jit(do_not_specialize=["length", "B_batch", "B_row", "C_batch", "C_row"])
def stage(
    B, C, path, staged, length, B_batch, B_row, C_batch, C_row, N: tl.constexpr, NB: tl.constexpr, T: tl.constexpr
):
    """B and C in the order of the steps: [B, L, 2, NB], float32, zero from N on."""
    batch = tl.program_id(1).to(tl.int64)
    step = tl.program_id(0) * T + tl.arange(0, T)
    row = row_at(path, step, step < length)[:, None]
    n = tl.arange(0, NB)[None, :]
    mask = (step < length)[:, None] & (n < N)
    b = tl.load(B + batch * B_batch + row * B_row + n, mask=mask, other=0.0)
    c = tl.load(C + batch * C_batch + row * C_row + n, mask=mask, other=0.0)
    to = staged + (batch * length + step[:, None]) * 2 * NB + n
    tl.store(to, b.to(tl.float32), mask=(step < length)[:, None])
    tl.store(to + NB, c.to(tl.float32), mask=(step < length)[:, None])


@triton.jit(do_not_specialize=ROWS + SIZES, do_not_specialize_on_alignment=TENSORS)
def outputs(
    u, delta, z, out, A, D, bias, path, since, staged, initial, saved, ends, sums,
    u_batch, u_row, delta_batch, delta_row, z_batch, z_row, out_batch, out_row, length, channels, parts, part,
    N: tl.constexpr, NB: tl.constexpr, E: tl.constexpr, T: tl.constexpr, SAVE: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """out [B, L, E] from the state `initial` [B, N, E], else zero; with `saved`, the state before every SAVE-th step
    [B, L / SAVE, N, E].

    `ends` [B, parts, N, E] and `sums` [B, parts, E] are those of `hand_on`, read where there are several parts.
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
            h = carry(h, A_, ends, sums, batch * parts + before, channels, N, n, e, both)
    for start in range(first, stop, T):
        if saved is not None:
            if start % SAVE == 0:
                chunk = batch * tl.cdiv(length, SAVE) + start // SAVE
                tl.store(saved + chunk * channels * N + n * channels + e[None, :], h, mask=both)
        rows, xs, raws, zs, ys = (), (), (), (), ()
        for t in tl.static_range(T):
            mask = inside & (start + t < stop)
            row = row_at(path, start + t, start + t < stop)
            rows = rows + (row,)
            xs = xs + (tl.load(u + row * u_row + e, mask=mask, other=0.0),)
            raws = raws + (tl.load(delta + row * delta_row + e, mask=mask, other=0.0),)
            if z is not None:
                zs = zs + (tl.load(z + batch * z_batch + row * z_row + e, mask=mask, other=0.0),)
        for t in tl.static_range(T):
            there = start + t < stop
            b = projected(staged, start + t, 0, there, NB)
            c = projected(staged, start + t, 1, there, NB)
            x = xs[t].to(tl.float32)
            d = step_size(raws[t], bias_, there, SOFTPLUS)
            if since is not None:
                h = tl.where(starts(since, start + t, there), 0.0, h)
            h = tl.exp2(d[None, :] * A_) * h + (d * x)[None, :] * b
            y = tl.sum(c * h, 0) + D_ * x
            if z is not None:
                gate = zs[t].to(tl.float32)
                y *= gate * tl.sigmoid(gate)
            ys = ys + (y,)
        for t in tl.static_range(T):
            tl.store(out + rows[t] * out_row + e, ys[t].to(out.dtype.element_ty), mask=inside & (start + t < stop))


@triton.jit(do_not_specialize=ROWS + SIZES, do_not_specialize_on_alignment=TENSORS)
def hand_on(
    u, delta, z, out, A, bias, path, since, staged, ends, sums,
    u_batch, u_row, delta_batch, delta_row, z_batch, z_row, out_batch, out_row, length, channels, parts, part,
    N: tl.constexpr, NB: tl.constexpr, E: tl.constexpr, T: tl.constexpr, SOFTPLUS: tl.constexpr, BACK: tl.constexpr,
):  # fmt: skip
    """The state at the end of each part that starts from zero, and the sum of its steps, inf where a segment starts.

    With BACK the adjoint at the beginning of each part, walked from its last step, `out` being the output's gradient.
    """
    batch = tl.program_id(1).to(tl.int64)
    at = tl.program_id(2) + BACK  # nothing needs what the last part hands on, or the first one hands back
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
            row = row_at(path, step, there)
            raw = tl.load(delta + batch * delta_batch + row * delta_row + e, mask=mask, other=0.0)
            d = step_size(raw, bias_, there, SOFTPLUS)
            decay = tl.exp2(d[None, :] * A_)
            if BACK:
                flow = tl.load(out + batch * out_batch + row * out_row + e, mask=mask, other=0.0).to(tl.float32)
                if z is not None:
                    gate = tl.load(z + batch * z_batch + row * z_row + e, mask=mask, other=0.0).to(tl.float32)
                    flow *= gate * tl.sigmoid(gate)
                c = projected(staged, step, 1, there, NB)
                h = decay * (flow[None, :] * c + h)
            total += d
            if since is not None:
                fresh = starts(since, step, there)
                h = tl.where(fresh, 0.0, h)
                total = tl.where(fresh, float("inf"), total)
            if not BACK:
                x = tl.load(u + batch * u_batch + row * u_row + e, mask=mask, other=0.0).to(tl.float32)
                b = projected(staged, step, 0, there, NB)
                h = decay * h + (d * x)[None, :] * b
    place = batch * parts + at
    tl.store(ends + place * channels * N + n * channels + e[None, :], h, mask=both)
    tl.store(sums + place * channels + e, total, mask=inside)
