"""A training of another kind: an autoencoder and the critic that it is trained against."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ddpm_core import seeding
from ddpm_core.conditioning import NOTHING, Conditioning
from ddpm_core.config import RunConfig
from ddpm_core.config.rates import learning_rate
from ddpm_core.loading.loader import to_unit_range
from ddpm_core.models.profiles import Exponential
from ddpm_core.training.stepping.counting import Counts
from ddpm_core.training.stepping.optimiser import Optimiser
from ddpm_core.training.stepping.parallel import Parallel
from ddpm_core.training.stepping.trainee import Average, Trainee

AVERAGES = [
    Average("autoencoder", "ema", Exponential(0.9)),
    Average("autoencoder", "slow", Exponential(0.99)),
    Average("critic", "ema", Exponential(0.9)),
]
PARTS = {
    "state", "module.autoencoder", "module.critic", "optimiser.generator", "optimiser.critic_adam",
    "ema.autoencoder", "slow.autoencoder", "ema.critic",
}  # fmt: skip


class Critic(nn.Sequential):
    """Counts its steps in a buffer, and is less sure of itself the more there were."""

    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.SiLU(), nn.Flatten(), nn.Linear(64, 1)
        )
        self.register_buffer("num_steps", torch.zeros((), dtype=torch.int64))

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, 0] / (1 + 0.1 * self.num_steps)


class Adversarial:
    """Two modules, an optimiser of each, three averages; the step is two updates."""

    accepts: frozenset[str] = frozenset()

    def __init__(self, config: RunConfig, parallel: Parallel) -> None:
        self._train, self._parallel = config.train, parallel
        self.autoencoder = nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1),
            nn.SiLU(),
            nn.ConvTranspose2d(4, 1, 2, stride=2),
        )
        self.critic = Critic()
        generator = seeding.generator(config.train.seed, "init")
        modules = {"autoencoder": self.autoencoder, "critic": self.critic}
        for module in modules.values():
            module.to(memory_format=torch.channels_last)
            for param in module.parameters():
                nn.init.normal_(param, std=0.2, generator=generator)
        self._generator = Optimiser(dict(self.autoencoder.named_parameters()), betas=(0.5, 0.9))
        self._critic_adam = Optimiser(dict(self.critic.named_parameters()), betas=(0.5, 0.9))
        self._counts = Counts(
            ["loss", "critic_loss"], whole=None, latest=["grad_norm"], parallel=parallel
        )
        optimisers = {"generator": self._generator, "critic_adam": self._critic_adam}
        self.trainee = Trainee(modules, optimisers, AVERAGES, self._counts)
        self._positions = parallel.rows(config.train.global_batch_size)
        self._noise_key = seeding.key(config.train.seed, "noise")

    def step(self, step: int, images_u8: Tensor, conditioning: Conditioning = NOTHING) -> None:
        assert conditioning == NOTHING
        train = self._train
        x_0 = to_unit_range(images_u8, self._parallel.device)
        noise = seeding.normal(self._noise_key, step, self._positions, (1, 8, 8))
        rate = learning_rate(step, train)

        made = self.autoencoder(x_0 + 0.1 * noise)
        losses = (made - x_0).square().mean(dim=(1, 2, 3)) - 0.1 * self.critic(made)
        params = list(self._generator.params.values())
        self._parallel.backward(losses.mean(), params)
        norm = self._generator.update(rate, grad_clip=train.grad_clip)

        judged, true = self.critic(made.detach()), self.critic(x_0)
        critic_losses = functional.softplus(judged) + functional.softplus(-true)
        params = list(self._critic_adam.params.values())
        self._parallel.backward(critic_losses.mean(), params)
        self._critic_adam.update(2 * rate, grad_clip=train.grad_clip)
        self.critic.num_steps += 1

        self.trainee.average(step)
        for column, values in enumerate((losses, critic_losses)):
            members = torch.zeros(len(values), 2, dtype=torch.bool)
            members[:, column] = True
            self._counts.add(values.detach(), members)
        self._counts.note("grad_norm", norm)
