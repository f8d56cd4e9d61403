"""ZigMa: a DiT-style stack of Mamba mixers in which each layer has its own scan path.

Source: arXiv 2403.13802 and CompVis/zigma (model_zigma.py). The default follows the official code, including its
quirks: the skip inside a block adds the normalised stream, r' = r + RMSNorm(r) + gate * mixer(...);
`residual: textbook` is the usual pre-norm r' = r + gate * mixer(...). A clip is [B, T, C, H, W], as in the official
code; its tokens are ordered frame by frame. Differences from the published network: H and W may be any multiples of
the patch size; `null_class` adds an embedding for the dropped class; a mask hides text tokens; factorised scans of
clips preserve the order of the frames (upstream reverses them in every temporal layer).

B batch, C channels, H x W pixels, L tokens, S text tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from zigma_bench.backbones.zigma.facts import ZigmaOptions
from zigma_bench.layers.attention import CrossAttention
from zigma_bench.layers.conditioning import TextEmbedding, check_mask, make_condition, mean_pool, refuse_condition
from zigma_bench.layers.embed import DropPath, PatchEmbed, Positions, TimeEmbed, ZeroLinear, check_images, unpatchify
from zigma_bench.layers.stack import BlockStack
from zigma_bench.mixers.lookup import make_mixer
from zigma_bench.mixers.mamba.mixer import MambaMixer
from zigma_bench.ops.backends import backend_named
from zigma_bench.ops.norms import modulated_norm, residual_norm
from zigma_bench.scans.grid import Grid
from zigma_bench.scans.route import Route

NORM_EPS, FINAL_EPS = 1e-5, 1e-6


class ModulatedNorm(nn.RMSNorm):
    """Returns r + x, its RMSNorm, and the RMSNorm scaled and shifted: see `ops.norms.modulated_norm`."""

    def __init__(self, width: int, backend: str) -> None:
        super().__init__(width, eps=NORM_EPS)
        self.backend = backend

    def forward(  # type: ignore[override]
        self, r: Tensor, x: Tensor | None, shift: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        return modulated_norm(r, x, self.weight, shift, scale, eps=NORM_EPS, backend=self.backend)


class ZigmaBlock(nn.Module):
    """One layer: (x, r) and a condition c [B, D] -> (x, r), all [B, L, D].

    The residual r stays in float32. x, which the next layer adds to r, has the dtype of the mixer, as upstream.
    """

    def __init__(self, width: int, mixer: nn.Module, *, drop_path: float, residual: str, backend: str) -> None:
        super().__init__()
        self.norm = ModulatedNorm(width, backend)
        self.modulation = ZeroLinear(width, 3 * width)
        self.mixer, self.drop_path, self.residual = mixer, DropPath(drop_path), residual

    def forward(self, x: Tensor, r: Tensor | None, c: Tensor) -> tuple[Tensor, Tensor]:
        shift, scale, gate = self.modulation(nn.functional.silu(c)).chunk(3, dim=-1)  # [B, D] each
        before, added = (x, None) if r is None else (r, self.drop_path(x))
        r, n, modulated = self.norm(before, added, shift, scale)
        branch = self.mixer(modulated)
        gate = gate[:, None].to(branch.dtype)
        return (torch.addcmul(n.to(branch.dtype), gate, branch) if self.residual == "official" else gate * branch), r


class FusedZigmaBlock(ZigmaBlock):
    """The same layer on a GPU: the next layer's norm kernel also does this layer's gating and residual addition.

    (r, y, gate, before) and c -> the same for the next layer, which adds gate * y to the stream r, and the norm of r
    times `before` (None: nothing). y, gate and before are None before the first layer.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.launcher = norm_launcher()

    def forward(  # type: ignore[override]
        self, r: Tensor, y: Tensor | None, gate: Tensor | None, before: Tensor | None, c: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        shift, scale, own_gate = self.modulation(nn.functional.silu(c)).chunk(3, dim=-1)  # [B, D] each
        projection = self.mixer.first if isinstance(self.mixer, MambaMixer) else None
        drop_factors, device = None if y is None else self.drop_path.factors(r), r.device.type
        narrow = projection is not None and torch.is_autocast_enabled(device)  # other mixers get float32
        r, rows = residual_norm(
            r, y, gate, before, drop_factors, self.norm.weight, shift, scale, projection, eps=NORM_EPS,
            dtype=torch.get_autocast_dtype(device) if narrow else torch.float32, backend=self.launcher,
        )  # fmt: skip
        y = self.mixer(rows) if projection is None else self.mixer(rows, projected=True)
        skip = (
            self.norm.weight.view(-1) if self.residual == "official" else None
        )  # a view, because module hooks don't accept leaves
        return r, y, own_gate, skip


def norm_launcher() -> str:
    """The backend of `residual_norm` on a GPU: Triton, or PyTorch if Triton isn't available."""
    return "triton" if backend_named("triton").find_problem() is None else "torch"


class ZigmaTextBlock(ZigmaBlock):
    """A block followed by cross-attention to text tokens [B, S, D] with its own modulation and gate."""

    def __init__(self, width: int, mixer: nn.Module, *, drop_path: float, residual: str, backend: str) -> None:
        super().__init__(width, mixer, drop_path=drop_path, residual=residual, backend=backend)
        self.text_modulation = ZeroLinear(width, 3 * width)
        self.text_attention = CrossAttention(width)

    def forward(  # type: ignore[override]
        self, x: Tensor, r: Tensor | None, c: Tensor, text: Tensor, mask: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        x, r = super().forward(x, r, c)
        stream = x if self.residual == "official" else r + x
        shift, scale, gate = self.text_modulation(nn.functional.silu(c))[:, None].chunk(3, dim=-1)  # [B, 1, D] each
        n = nn.functional.layer_norm(stream, stream.shape[-1:], eps=FINAL_EPS)
        return x + gate * self.text_attention(n * (1 + scale) + shift, text, mask), r


class Zigma(nn.Module):
    """x [B, C, H, W], t [B] in [0, 1] and an optional condition -> the velocity [B, C, H, W].

    y: labels int64 [B], or text features [B, S, C] with a mask bool [B, S], True for visible tokens. A clip, for a
    grid of several frames, is [B, T, C, H, W].
    """

    def __init__(
        self, options: ZigmaOptions, *, grid: Grid, channels: int, routes: Sequence[Route], backend: str
    ) -> None:
        super().__init__()
        self.grid, self.patch, self.channels = grid, options.patch, channels
        self.checkpointing = options.gradient_checkpointing
        self.patch_embed = PatchEmbed(channels, options.width, options.patch)
        self.positions = Positions(options.positions, grid, options.width)
        self.time_embed = TimeEmbed(options.width)
        self.condition = make_condition(options, options.width)
        rates = [0.0, *torch.linspace(0, options.drop_path, options.depth).tolist()]  # official: shifted by one
        self.launcher = (
            norm_launcher() if backend_named(backend).fuses_residual and options.condition != "text" else None
        )
        kind = (
            ZigmaTextBlock if options.condition == "text" else ZigmaBlock if self.launcher is None else FusedZigmaBlock
        )
        self.blocks = BlockStack(
            kind(
                options.width,
                make_mixer(options.layer(number), grid=grid, route=route, backend=backend),
                drop_path=rate,
                residual=options.residual,
                backend=backend,
            )
            for number, (route, rate) in enumerate(zip(routes, rates, strict=False))
        )
        self.final_drop = DropPath(options.drop_path)
        self.final_norm = nn.RMSNorm(options.width, eps=NORM_EPS)
        self.head = nn.Linear(options.width, options.patch**2 * channels)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        check_images(x, t, grid=self.grid, channels=self.channels, patch=self.patch)
        c, text = self._conditioned(t, y, mask)  # [B, D], and text tokens with their mask
        x = self.positions(self.patch_embed(x))  # [B, L, D]
        x = self._through_blocks(x, c, *text)
        x = nn.functional.layer_norm(x, x.shape[-1:], eps=FINAL_EPS)
        return unpatchify(self.head(x), self.grid, self.patch)

    def _through_blocks(self, x: Tensor, c: Tensor, *text: Tensor | None) -> Tensor:
        """Run all blocks and the final norm, [B, L, D] -> [B, L, D] in float32."""
        if self.launcher is not None:
            first = (x.float(), None, None, None)
            r, y, gate, before = self.blocks.through(first, (c,), checkpointing=self.checkpointing)
            zeros, drop_factors = torch.zeros_like(c), self.final_drop.factors(x)
            _, x = residual_norm(
                r, y, gate, before, drop_factors, self.final_norm.weight, zeros, zeros, None, eps=NORM_EPS,
                dtype=torch.float32, backend=self.launcher,
            )  # fmt: skip
            return x
        x, r = self.blocks.through((x, None), (c, *text), checkpointing=self.checkpointing)
        return self.final_norm(self.final_drop(x).float() + r)  # type: ignore[no-any-return]

    def _conditioned(
        self, t: Tensor, y: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """The modulation vector of the blocks [B, D], and the text tokens and mask for their cross-attention."""
        c = self.time_embed(t)
        if self.condition is None:
            refuse_condition(y)
            check_mask(mask, y)
            return c, ()
        embedded = self.condition(y, len(t))
        check_mask(mask, y)
        if isinstance(self.condition, TextEmbedding):
            return c + mean_pool(embedded, mask), (embedded, mask)
        return c + embedded, ()


class VisionMamba(Zigma):
    """x [B, C, H, W] and t [B] in [0, 1] -> the velocity [B, C, H, W]: ZigMa's bidirectional baseline (`scan_type v2`).

    Each layer scans the raster forwards and backwards and sums both. The two directions have separate convolutions,
    projections, A and D, and share in_proj and out_proj (after hustvl/Vim, mamba_simple.py). So every route has two
    paths, and each token is scanned twice. By default the backward branch is initialized like the forward one;
    `init: official` zeroes its dt bias as upstream does, which gives an initial dt near 0.69, far outside [1e-3, 0.1].
    Differences from Vim: ZigMa's conditioning and residual, no class token.
    """


class Hybrid(Zigma):
    """ZigMa with softmax attention instead of Mamba in every k-th layer; `options.layer(i)` names the mixer of layer i.

    Source: the idea is Jamba's (arXiv 2403.19887), which also has MLPs. Here every block is ZigMa's, including adaLN
    and the residual, so that only the mixer differs. It is not a published diffusion network. Attention layers see
    every token regardless of the order; Mamba layers follow the scan.
    """
