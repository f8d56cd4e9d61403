"""SSD in PyTorch's operators, on any device: matrix products in chunks of steps, and states passed between chunks.

Within a chunk y_i = sum_j (C_i . B_j) exp(a_{j+1} + .. + a_i) d_j x_j over j <= i with a = d A: except for j = i, a
matrix product with a masked matrix (listing 1 of arXiv 2405.21060). Each chunk adds one state, and the state before a
chunk is the decayed sum of the earlier ones: a matrix product with a matrix of chunks. Every decay is the exp of a
difference of cumulative sums (in float64), and never of a positive number. The backward pass recomputes the chunks,
because their matrices would take Q numbers per row and head.

B batch, L steps, Q steps of a chunk, K chunks, E channels in H heads, R = H / G heads of a group, N states.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from zigma_bench.ops.arguments import working_dtype
from zigma_bench.ops.causal_conv.torch_blocks import take_rows
from zigma_bench.ops.ssd import SsdArguments, in_wide_dtype

CHUNK = 64
# exp(a) is zero in float32 (float64) for smaller a; with this bound, sums stay finite.
MOST_FORGOTTEN = {torch.float32: -128.0, torch.float64: -800.0}


def chunked_ssd(arguments: SsdArguments) -> Tensor:
    """See `ssd`: gathers the rows along the path, computes the chunks, and scatters the rows back."""
    a = in_wide_dtype(arguments, working_dtype(arguments.x))
    rows, rest = (a.x, a.dt, a.B, a.C), (a.A, a.D, a.dt_bias, a.dt_softplus, a.segment_starts)
    if a.path is None:
        return _checkpointed(*rows, *rest)
    inverse = torch.empty_like(a.path)
    inverse[a.path] = torch.arange(len(a.path), device=a.path.device)
    gathered = (take_rows(tensor, a.path, inverse) for tensor in rows)
    return take_rows(_checkpointed(*gathered, *rest), inverse, a.path)


def _checkpointed(*arguments: Tensor | bool | None) -> Tensor:
    y: Tensor = checkpoint(_in_order, *arguments, use_reentrant=False, preserve_rng_state=False)
    return y


def _in_order(
    x: Tensor,
    dt: Tensor,
    B: Tensor,
    C: Tensor,
    A: Tensor,
    D: Tensor | None,
    dt_bias: Tensor | None,
    dt_softplus: bool,
    segment_starts: Tensor | None,
) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):  # this function chooses the dtypes of products
        d = dt if dt_bias is None else dt + dt_bias
        d = F.softplus(d) if dt_softplus else d
        heads = torch.unflatten(x, -1, (len(A), -1))  # [B, L, H, P]
        enters, a = d[..., None] * heads, (d * A).clamp(min=MOST_FORGOTTEN[d.dtype])
        spoiled = None
        if segment_starts is not None:
            enters, a, B, C, spoiled = _without_infinities(enters, a, B, C, segment_starts)
        product = torch.bfloat16 if x.dtype == torch.bfloat16 else d.dtype
        y = _chunked(enters.to(product), a, B.to(product), C.to(product), segment_starts)
        # The term j = i, without decay: computed separately, in full precision.
        own = d * (C.to(d.dtype) * B.to(d.dtype)).sum(-1).repeat_interleave(len(A) // B.shape[2], -1)
        y = torch.addcmul(y, (own if D is None else own + D)[..., None], heads)  # in the dtype of d
        y = y if spoiled is None else y.masked_fill(spoiled[..., None], torch.nan)
        return y.flatten(2).to(x.dtype)


def _without_infinities(
    x: Tensor, a: Tensor, B: Tensor, C: Tensor, segment_starts: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The inputs of `_chunked` with zeros for infinities and NaN, and where the output must be NaN: [B, L, H].

    A product with a masked matrix multiplies values of other segments by 0, and 0 times inf is NaN. The whole head
    becomes NaN, from such a step to the end of its segment.
    """
    each = a.shape[2] // B.shape[2]
    finite = [tensor.isfinite() for tensor in (x, a, B, C)]
    B_fine, C_fine = (fine.all(-1).repeat_interleave(each, -1) for fine in finite[2:])
    step = torch.arange(len(segment_starts), device=segment_starts.device)[:, None]
    last = torch.where(finite[0].all(-1) & finite[1] & B_fine, -1, step).cummax(1).values
    x, a, B, C = (torch.where(fine, tensor, 0) for fine, tensor in zip(finite, (x, a, B, C), strict=True))
    return x, a, B, C, (last >= segment_starts[:, None]) | ~C_fine


def _chunked(x: Tensor, a: Tensor, B: Tensor, C: Tensor, segment_starts: Tensor | None) -> Tensor:
    """h_t = exp(a) h_{t-1} + B x^T, y = exp(a) C h_{t-1}: the contribution of earlier steps, [B, L, H, P].

    x [B, L, H, P], a [B, L, H], B and C [B, L, G, N]. States and decays have the dtype of a, products that of x; y has
    that of a, or that of x if there is a single chunk. An infinity or NaN makes its head of the sample NaN.
    """
    length, wide = a.shape[1], a.dtype
    chunk = min(CHUNK, length)
    x, a, B, C = (_cut(tensor, chunk) for tensor in (x, a, B, C))
    step = torch.arange(a.shape[1] * chunk, device=a.device).view(-1, chunk)  # [K, Q]
    starts = torch.zeros_like(step) if segment_starts is None else _cut(segment_starts[None], chunk)[0]
    sums = a.transpose(2, 3).double().cumsum(-1)  # [B, K, H, Q]
    y = _inside(x, sums, B, C, step, starts, wide)
    if length > chunk:
        before = _states_before(x, sums, B, step, starts, wide)
        y = _from_before(before, sums, C, step, starts).add_(y)
    return y.flatten(1, 2)[:, :length]


def _cut(tensor: Tensor, chunk: int) -> Tensor:
    """[B, L, ..] -> [B, K, Q, ..], with zeros after the last step."""
    tail = -tensor.shape[1] % chunk
    padded = F.pad(tensor, (0, 0) * (tensor.dim() - 2) + (0, tail)) if tail else tensor
    return torch.unflatten(padded, 1, (-1, chunk))


def _inside(x: Tensor, sums: Tensor, B: Tensor, C: Tensor, step: Tensor, starts: Tensor, wide: torch.dtype) -> Tensor:
    """The contribution of earlier steps of the same chunk and segment: [B, K, Q, H, P], in the dtype of x."""
    seen = (step[:, None, :] < step[:, :, None]) & (step[:, None, :] >= starts[:, :, None])  # [K, Q, Q]
    decays = _decays(sums, sums.view_as(sums), seen[:, None], wide)  # [B, K, H, Q, Q]; Dynamo rejects one tensor twice
    likeness = C.transpose(2, 3) @ B.permute(0, 1, 3, 4, 2)  # C_i . B_j, [B, K, G, Q, Q]
    matrix = likeness[:, :, :, None] * torch.unflatten(decays, 2, (B.shape[3], -1))  # [B, K, G, R, Q, Q]
    y: Tensor = matrix.flatten(2, 3).to(x.dtype) @ x.transpose(2, 3)
    return y.transpose(2, 3)


def _states_before(x: Tensor, sums: Tensor, B: Tensor, step: Tensor, starts: Tensor, wide: torch.dtype) -> Tensor:
    """The state before each chunk, [B, K, H, P, N]; zeros before the first."""
    totals = sums[..., -1].transpose(1, 2).cumsum(2)  # [B, H, K]
    totals_before = F.pad(totals[..., :-1], (1, 0))
    x, sums, B, ends, lasting = x[:, :-1], sums[:, :-1], B[:, :-1], step[:-1, -1], starts[:-1, -1:]
    stays = step[:-1] >= lasting  # [K - 1, Q]: whether in the segment of the chunk's last step
    decays = (sums[..., -1:] - sums).masked_fill(~stays[:, None], -torch.inf).to(wide).exp()  # [B, K - 1, H, Q]
    left = (decays.transpose(2, 3)[..., None] * x).to(x.dtype)
    left = torch.unflatten(left, 3, (B.shape[3], -1)).flatten(4)  # [B, K - 1, Q, G, R P]
    states = left.permute(0, 1, 3, 4, 2) @ B.transpose(2, 3)  # [B, K - 1, G, R P, N]
    states = torch.unflatten(states.flatten(2, 3), 2, x.shape[3:]).to(wide)  # [B, K - 1, H, P, N]
    seen = F.pad((ends <= ends[:, None]) & (ends >= lasting), (0, 0, 1, 0))  # [K, K - 1]
    return torch.einsum("bhkc,bchpn->bkhpn", _decays(totals_before, totals[..., :-1], seen, wide), states)


def _from_before(before: Tensor, sums: Tensor, C: Tensor, step: Tensor, starts: Tensor) -> Tensor:
    """The contribution of the states before the chunks to the steps of their segment: [B, K, Q, H, P]."""
    reached = starts < step[:, :1]  # [K, Q]
    decays = sums.masked_fill(~reached[:, None], -torch.inf).to(before.dtype).exp().transpose(2, 3)  # [B, K, Q, H]
    states = torch.unflatten(before.to(C.dtype), 2, (C.shape[3], -1)).flatten(3, 4)  # [B, K, G, R P, N]
    read = (C.transpose(2, 3) @ states.transpose(3, 4)).transpose(2, 3).flatten(3)  # [B, K, Q, E]
    return decays[..., None] * torch.unflatten(read, 3, before.shape[2:4])


def _decays(into: Tensor, out: Tensor, seen: Tensor, wide: torch.dtype) -> Tensor:
    """exp(into_i - out_j) if `seen`, else 0: sums [.., I] and [.., J] in float64 -> [.., I, J]."""
    decays: Tensor = _Decays.apply(into, out, seen, wide)
    return decays


class _Decays(torch.autograd.Function):
    """Differences, and the sums of their gradients, in float64, without storing a float64 matrix.

    A step with a strong decay adds a large number to the sums, which cancels in differences, forward and backward.
    """

    @staticmethod
    def forward(ctx: Any, into: Tensor, out: Tensor, seen: Tensor, wide: torch.dtype) -> Tensor:
        decays = torch.empty((*into.shape, out.shape[-1]), dtype=wide, device=into.device)
        torch.sub(into[..., :, None], out[..., None, :], out=decays)
        decays.masked_fill_(~seen, -torch.inf).exp_()
        ctx.save_for_backward(decays)
        return decays

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        exponent = grad * ctx.saved_tensors[0]
        into, out = (exponent.sum(axis, dtype=torch.float64) for axis in (-1, -2))
        return into, -out, None, None
