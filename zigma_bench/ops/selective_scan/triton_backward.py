"""Gradients of the selective scan along a path, in Triton.

A program goes through the chunks of SAVE steps of its part, from the last to the first. Starting from the state saved
before a chunk, it computes the states forward and stores the one before every T-th step in scratch memory. Then, from
the last T steps to the first, it recomputes their states in registers and propagates the gradient of the state back
through them. The sums over a block's channels (gradients of B and C) are written and added up by the caller, without
atomics, so that equal runs give equal bits.
"""

import triton
import triton.language as tl

from zigma_bench.ops.selective_scan.triton_kernels import (
    LN2,
    LOG2E,
    ROWS,
    SIZES,
    TENSORS,
    carry_over_part,
    compute_step_size,
    load_fresh,
    load_projection,
    load_row,
)

MORE_TENSORS = ["scratch", "grad_u", "grad_delta", "grad_z", "grad_pairs", "grad_A", "grad_D", "grad_bias",
                "grad_initial"]  # fmt: skip


@triton.jit(do_not_specialize=ROWS + SIZES, do_not_specialize_on_alignment=TENSORS + MORE_TENSORS)
def scan_gradients_kernel(
    u, delta, z, out, A, D, bias, path, segment_starts, staged, saved, ends, sums, scratch,
    grad_u, grad_delta, grad_z, grad_pairs, grad_A, grad_D, grad_bias, grad_initial,
    u_batch, u_row, delta_batch, delta_row, z_batch, z_row, out_batch, out_row, length, channels, parts, part,
    N: tl.constexpr, NB: tl.constexpr, E: tl.constexpr, T: tl.constexpr, SAVE: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """grad_u, grad_delta, grad_z [B, L, E]; grad_pairs [blocks, B, L, 2, NB] of B and C; grad_A [B, parts, N, E];
    grad_D, grad_bias [B, parts, E]; grad_initial [B, N, E] or None.

    `out` is the output's gradient, `saved` is what `scan_outputs_kernel` wrote, `ends` and `sums` are those of
    `carry_states_kernel` with BACK; `scratch` [programs, SAVE / T, NB, E] is scratch memory for states.
    """
    block, batch, at = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    first = at * part
    stop = tl.minimum(first + part, length)
    lane = tl.arange(0, E)
    e = block * E + lane
    states = tl.arange(0, NB)
    n = states[:, None] + tl.zeros([1, E], tl.int32)
    inside = e < channels
    both = (n < N) & inside[None, :]
    A_ = tl.load(A + n * channels + e[None, :], mask=both, other=0.0) * LOG2E
    bias_ = tl.load(bias + e, mask=inside, other=0.0)
    D_ = tl.load(D + e, mask=inside, other=0.0)
    u += batch * u_batch
    delta += batch * delta_batch
    out += batch * out_batch
    staged += batch * length * 2 * NB
    scratch += ((batch * tl.num_programs(0) + block) * parts + at) * (SAVE // T * NB * E)
    grad_pairs += (block * tl.num_programs(1) + batch) * length * NB * 2
    r = tl.zeros([NB, E], tl.float32)  # gradient of the state, from the later steps
    if ends is not None:
        for before in range(parts - 1 - at):
            r = carry_over_part(r, A_, ends, sums, batch * parts + parts - 1 - before, channels, N, n, e, both)
    grad_A_ = tl.zeros([NB, E], tl.float32)
    grad_D_ = tl.zeros([E], tl.float32)
    grad_bias_ = tl.zeros([E], tl.float32)
    for begin in range((stop - first - 1) // SAVE * SAVE + first, first - 1, -SAVE):
        chunk = batch * tl.cdiv(length, SAVE) + begin // SAVE
        h = tl.load(saved + chunk * channels * N + n * channels + e[None, :], mask=both, other=0.0)
        pieces = tl.cdiv(tl.minimum(stop - begin, SAVE), T)
        for piece in range(pieces):
            tl.store(scratch + piece * NB * E + n * E + lane[None, :], h)
            for t in tl.static_range(T):
                step = begin + piece * T + t
                there = step < stop
                row = load_row(path, step, there)
                x = tl.load(u + row * u_row + e, mask=inside & there, other=0.0).to(tl.float32)
                raw = tl.load(delta + row * delta_row + e, mask=inside & there, other=0.0)
                d = compute_step_size(raw, bias_, there, SOFTPLUS)
                b = load_projection(staged, step, 0, there, NB)
                if segment_starts is not None:
                    h = tl.where(load_fresh(segment_starts, step, there), 0.0, h)
                h = tl.exp2(d[None, :] * A_) * h + (d * x)[None, :] * b
        tl.debug_barrier()  # other threads read what this one has stored
        for piece in range(pieces - 1, -1, -1):
            start = begin + piece * T
            h = tl.load(scratch + piece * NB * E + n * E + lane[None, :])
            rows, xs, raws, ds, befores, afters, flows, zs = (), (), (), (), (), (), (), ()
            for t in tl.static_range(T):
                there = start + t < stop
                mask = inside & there
                row = load_row(path, start + t, there)
                x = tl.load(u + row * u_row + e, mask=mask, other=0.0).to(tl.float32)
                raw = tl.load(delta + row * delta_row + e, mask=mask, other=0.0).to(tl.float32)
                d = compute_step_size(raw, bias_, there, SOFTPLUS)
                b = load_projection(staged, start + t, 0, there, NB)
                if segment_starts is not None:
                    h = tl.where(load_fresh(segment_starts, start + t, there), 0.0, h)
                befores = befores + (h,)
                h = tl.exp2(d[None, :] * A_) * h + (d * x)[None, :] * b
                rows, xs, raws, ds, afters = rows + (row,), xs + (x,), raws + (raw,), ds + (d,), afters + (h,)
                flows = flows + (tl.load(out + row * out_row + e, mask=mask, other=0.0).to(tl.float32),)
                if z is not None:
                    gate = tl.load(z + batch * z_batch + row * z_row + e, mask=mask, other=0.0)
                    zs = zs + (gate.to(tl.float32),)
            for t in tl.static_range(T - 1, -1, -1):
                there = start + t < stop
                mask = inside & there
                d, x, after, gy = ds[t], xs[t], afters[t], flows[t]
                b = load_projection(staged, start + t, 0, there, NB)
                c = load_projection(staged, start + t, 1, there, NB)
                place = (batch * length + rows[t]) * channels + e
                y = tl.sum(c * after, 0) + D_ * x
                if z is not None:
                    s = tl.sigmoid(zs[t])
                    grad_z_ = gy * y * s * (1.0 + zs[t] * (1.0 - s))
                    tl.store(grad_z + place, grad_z_.to(grad_z.dtype.element_ty), mask=mask)
                    gy *= zs[t] * s
                g = gy[None, :] * c + r
                to = grad_pairs + rows[t] * NB * 2 + states
                tl.store(to, tl.sum(g * (d * x)[None, :], 1), mask=there)
                tl.store(to + NB, tl.sum(after * gy[None, :], 1), mask=there)
                r = tl.exp2(d[None, :] * A_) * g
                exponent = r * befores[t]  # gradient of d A
                if segment_starts is not None:
                    r = tl.where(load_fresh(segment_starts, start + t, there), 0.0, r)
                grad_A_ += d[None, :] * exponent
                through = tl.sum(b * g, 0)
                grad_d_ = x * through + LN2 * tl.sum(A_ * exponent, 0)
                if SOFTPLUS:
                    grad_d_ *= tl.sigmoid(raws[t] + bias_)
                grad_d_ = tl.where(there, grad_d_, 0.0)
                grad_u_ = D_ * gy + d * through
                grad_D_ += gy * x
                grad_bias_ += grad_d_
                tl.store(grad_u + place, grad_u_.to(grad_u.dtype.element_ty), mask=mask)
                tl.store(grad_delta + place, grad_d_.to(grad_delta.dtype.element_ty), mask=mask)
        tl.debug_barrier()  # all have read before the next chunk overwrites
    place = batch * parts + at
    tl.store(grad_A + place * channels * N + n * channels + e[None, :], grad_A_, mask=both)
    if grad_initial is not None:
        tl.store(grad_initial + batch * channels * N + n * channels + e[None, :], r, mask=both & (at == 0))
    tl.store(grad_D + place * channels + e, grad_D_, mask=inside)
    tl.store(grad_bias + place * channels + e, grad_bias_, mask=inside)
