"""Sample from a trained or imported network, with its own time convention, guidance and learned sigma."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from zigma_bench.diffusion.conventions import vp_noise_of_dit
from zigma_bench.diffusion.convert import Network
from zigma_bench.diffusion.ddpm import dit_schedule, solve_discrete
from zigma_bench.diffusion.draw import sample_from_noise
from zigma_bench.diffusion.guidance import TextLookup, with_labels
from zigma_bench.diffusion.noise import StepNoise, image_noise
from zigma_bench.errors import NotFinite, UsageError
from zigma_bench.plan.diffusion import check_diffusion, objective_of, sampler_of
from zigma_bench.sampling.drawable import Drawable
from zigma_bench.sampling.words import label_of
from zigma_bench.suite import DISCRETE, Sample, Strict, Train, YamlSource, validate_sections


class SamplingRecipe(Strict):
    """The prediction and path of a model (`train`) and the settings of its sampler (`sample`)."""

    train: Train
    sample: Sample


@dataclass(frozen=True)
class SamplingRequest:
    """A request for samples: source, recipe, seed of the noise, and the labels (None: all classes) or prompts."""

    source: Drawable
    recipe: SamplingRecipe
    seed: int
    labels: tuple[int, ...] | None
    prompts: tuple[str, ...] | None = None

    def __str__(self) -> str:
        """The sampler with its resolved defaults, for people."""
        sample = self.recipe.sample
        words = [str(sampler_of(self.recipe.train, sample))]
        if self.of_dit:
            variance = f", variance {self.variance}" if self.variance else f", eta {sample.eta or 0.0:g}"
            words = [f"{sample.solver} on DiT's steps, evaluations {sample.resolved_evaluations}{variance}"]
        if sample.guidance:
            words.append(f"guidance {sample.guidance.scale:g} on {sample.guidance.channels} channels")
        return ", ".join([*words, f"seed {self.seed}"])

    @property
    def of_dit(self) -> bool:
        """Whether the sampler uses DiT's own discrete steps."""
        return self.source.of_dit and self.recipe.sample.solver in DISCRETE

    @property
    def variance(self) -> Literal["small", "large", "learned"] | None:
        """The variance of DDPM on DiT's steps: that of the recipe, else `learned` if the network predicts one."""
        sample = self.recipe.sample
        if not self.of_dit or sample.solver != "ddpm":
            return None
        return sample.variance or ("learned" if self.source.learned_sigma else "small")

    def facts(self) -> dict[str, Any]:
        """Everything that a sample depends on besides its index. With dopri5 that includes its batch."""
        sample = self.recipe.sample
        free = set() if sample.solver == "dopri5" else {"count", "batch"}
        found = {
            "model": self.source.sha256,
            "seed": self.seed,
            "labels": self.labels and list(self.labels),
            "sample": sample.model_dump(mode="json", exclude=free),
        }
        if self.prompts is not None:
            found["prompts"] = list(self.prompts)
        return found if self.source.encoder is None else {**found, "encoder": self.source.encoder}

    def labels_of(self, indices: range | list[int]) -> list[int] | None:
        """The label or prompt number of every sample; None without conditioning."""
        if self.prompts is not None:
            return [index % len(self.prompts) for index in indices]
        classes = self.source.condition.classes
        if self.source.condition.kind != "class" or classes is None:
            return None
        return [label_of(self.seed, index, classes=classes, chosen=self.labels) for index in indices]


def make_sampling_request(
    drawable: Drawable,
    settings: Mapping[str, Any],
    *,
    seed: int,
    labels: tuple[int, ...] | None,
    places: Mapping[str, str],
    prompts: tuple[str, ...] | None = None,
) -> SamplingRequest:
    """Make a request from keys of a suite's `sample`, which override those of the network.

    `places`: how each key is spelled in the command, for errors. Raises UsageError for settings that the network
    doesn't support.
    """
    source = YamlSource("sample", "", {("sample", *key.split(".")): where for key, where in places.items()})
    recipe = validate_sections(
        SamplingRecipe, {"train": drawable.train, "sample": {**drawable.sample, **settings}}, source
    )
    unguided = recipe.sample.model_copy(update={"guidance": None})
    check_diffusion(SamplingRecipe(train=recipe.train, sample=unguided), source)
    for key, what in (("graph", "sample MODEL uses no CUDA graph"), ("compile", "sample MODEL doesn't compile")):
        if getattr(recipe.sample, key):
            raise UsageError(what, where=source.where("sample", key), do="omit it")
    request = SamplingRequest(drawable, recipe, seed, labels, prompts)
    _check_condition(request, source)
    return request


def _check_condition(request: SamplingRequest, source: YamlSource) -> None:
    condition, guidance = request.source.condition, request.recipe.sample.guidance
    if condition.kind == "text" and not request.source.reads_prompts:
        raise UsageError(
            "the model needs text features, and no text encoder is specified",
            do="give --encoder and --prompt, or call official.open_model(DIR) with your own features",
        )
    if condition.kind == "text" and not request.prompts:
        raise UsageError("the network needs a prompt", do="give --prompt TEXT, once or more")
    if condition.kind != "text" and request.prompts:
        raise UsageError("the network has no text condition", where="--prompt", expected=str(condition), do="omit it")
    if condition.kind != "class" and request.labels:
        raise UsageError("the model has no classes", where="--labels or --class", do="omit them")
    top = (condition.classes or 0) - 1
    if wrong := [label for label in request.labels or () if not 0 <= label <= top]:
        raise UsageError("class label out of range", where="--labels or --class", expected=f"0 to {top}", got=wrong[0])
    if guidance is None:
        return
    if not condition.null_class:
        raise UsageError(
            "the model has no null condition, so there is nothing to guide away from",
            where=source.where("sample", "guidance"), do="omit guidance",
        )  # fmt: skip
    if request.of_dit and guidance.interval is not None:
        raise UsageError(
            f"{request.recipe.sample.solver} runs on DiT's steps, but a guidance interval is in times",
            where=source.where("sample", "guidance"), do="omit the interval, or use another solver",
        )  # fmt: skip


@torch.no_grad()
def sample_batch(
    request: SamplingRequest, network: Network, indices: list[int], device: str, texts: TextLookup | None = None
) -> Tensor:
    """Sample the images or latents of some indices, float [B, *shape] on the CPU. Each depends on (seed, index) alone.

    `texts`: the features of the prompts. Raises NotFinite for NaN or infinity.
    """
    shape = request.source.shape
    noise = torch.stack([image_noise(request.seed, index, shape) for index in indices]).to(device)
    step_noise = StepNoise(request.seed, indices, shape, device)
    denoiser = _conditioned(request, network, indices, device, texts)
    sample = request.recipe.sample
    if request.of_dit:
        solver: Literal["ddpm", "ddim"] = "ddpm" if sample.solver == "ddpm" else "ddim"
        drawn, _ = solve_discrete(
            denoiser,
            noise,
            solver=solver,
            evaluations=sample.resolved_evaluations or 0,
            step_noise=step_noise,
            schedule=dit_schedule(),
            variance=request.variance or "small",
            eta=sample.eta or 0.0,
        )
    else:
        train = request.recipe.train
        drawn, _ = sample_from_noise(
            denoiser, noise, objective=objective_of(train), sampler=sampler_of(train, sample), step_noise=step_noise
        )
    if not bool(drawn.isfinite().all()):
        raise NotFinite(f"at least one of the samples {indices[0]} to {indices[-1]} is not finite")
    return drawn.float().cpu()


def _conditioned(
    request: SamplingRequest, network: Network, indices: list[int], device: str, texts: TextLookup | None
) -> Network:
    """Bind the label or prompt of each sample to the network, with guidance if requested."""
    if request.source.of_dit and not request.of_dit:
        network = vp_noise_of_dit(network)
    labels = request.labels_of(indices)
    if labels is None:
        return network
    y, dropped = torch.tensor(labels, device=device), request.source.condition.classes or 0
    return with_labels(network, y, dropped, request.recipe.sample.guidance, texts)
