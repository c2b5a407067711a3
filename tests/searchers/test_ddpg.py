"""The agent finds a known optimum, repeats itself from its seed and from a file, and learns as the equations say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from searchers._ddpg import DDPG, AgentSettings, truncated_normal
from suite.errors import BitcertError
from tests.searchers.test_mlp import torch_twin

SMALL = AgentSettings(hidden=32, actor_rate=1e-3, batch=32, capacity=500, warmup=20, decay=0.98)


def practise(agent: DDPG, episodes: int, seed: int = 0) -> None:
    """Two-step episodes in which 0.8 is the best action in state (1, 0) and 0.3 in state (0, 1)."""
    states, best = np.eye(2), np.array([0.8, 0.3])
    rng = np.random.default_rng(seed)
    for episode in range(episodes):
        explore = episode >= agent.settings.warmup
        actions = [
            agent.explore(state, agent.deviation(episode), rng.random()) if explore else rng.random()
            for state in states
        ]
        agent.remember(states, actions, -10 * (np.array(actions) - best) ** 2)
        if explore:
            for _ in range(4):
                agent.update()


@pytest.mark.parametrize("settings", [SMALL, replace(SMALL, critics=2), replace(SMALL, gradient_norm=1.0)])
def test_finds_the_best_actions_of_a_toy_problem(settings: AgentSettings) -> None:
    agent = DDPG(2, settings, seed=0)
    practise(agent, 300)
    assert agent.act([1, 0]) == pytest.approx(0.8, abs=0.1)
    assert agent.act([0, 1]) == pytest.approx(0.3, abs=0.1)


def test_same_seed_gives_the_same_agent_and_another_one_another() -> None:
    agents = [DDPG(2, SMALL, seed) for seed in (0, 0, 1)]
    for agent in agents:
        practise(agent, 40)
    actions = [agent.act([1, 0]) for agent in agents]
    assert actions[0] == actions[1] != actions[2]


@pytest.mark.parametrize("critics", [1, 2])
def test_a_saved_agent_goes_on_as_if_it_had_never_stopped(critics: int, tmp_path: Path) -> None:
    agent = DDPG(2, replace(SMALL, critics=critics), seed=3)
    practise(agent, 60)
    agent.save(tmp_path / "agent.safetensors")
    loaded = DDPG.load(tmp_path / "agent.safetensors")
    for either in (agent, loaded):
        practise(either, 30, seed=1)
    assert loaded.act([1, 0]) == agent.act([1, 0])
    assert loaded.baseline == agent.baseline
    np.testing.assert_array_equal(loaded.critics[-1].parameters, agent.critics[-1].parameters)


@pytest.mark.parametrize("content", [b"", b"no agent", b"\x80\x04K\x01."])
def test_a_file_that_holds_no_agent_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "agent").write_bytes(content)
    with pytest.raises(BitcertError, match="it holds no agent"):
        DDPG.load(tmp_path / "agent")


@pytest.mark.parametrize("critics", [1, 2])
def test_an_update_equals_the_equations_in_double_precision(critics: int) -> None:
    """The whole batch is known, so that drawing it leaves nothing to chance; two updates, so that targets differ."""
    settings = replace(SMALL, hidden=8, batch=6, critics=critics, discount=0.9, tau=0.2)
    agent = DDPG(3, settings, seed=5, dtype=np.float64)
    rng = np.random.default_rng(0)
    states, actions, rewards = rng.normal(size=(6, 3)), rng.random(6), rng.normal(size=6)
    agent.remember(states, actions, rewards)
    actor = torch_twin(agent.actor, 3, 8)
    critics_now = [torch_twin(critic, 4, 8) for critic in agent.critics]
    target_actor = torch_twin(agent.actor, 3, 8)
    target_critics = [torch_twin(critic, 4, 8) for critic in agent.critics]
    actor_optimizer = torch.optim.Adam(actor.parameters(), lr=settings.actor_rate)
    critic_optimizers = [torch.optim.Adam(critic.parameters(), lr=settings.critic_rate) for critic in critics_now]
    state, action = torch.from_numpy(states), torch.from_numpy(actions)[:, None]
    following = torch.cat([state[1:], torch.zeros(1, 3)])
    goes_on = torch.tensor([1.0, 1, 1, 1, 1, 0], dtype=torch.float64)[:, None]
    reward = torch.from_numpy(rewards)[:, None]
    baseline = reward.mean()  # the moving average of equal batch means
    for _ in range(2):
        agent.update()
        with torch.no_grad():
            pair = torch.cat([following, target_actor(following).sigmoid()], 1)
            value = torch.stack([critic(pair) for critic in target_critics]).min(0).values
            target = reward - baseline + 0.9 * goes_on * value
        for critic, optimizer in zip(critics_now, critic_optimizers, strict=True):
            optimizer.zero_grad()
            ((critic(torch.cat([state, action], 1)) - target) ** 2).mean().backward()
            optimizer.step()
        actor_optimizer.zero_grad()
        (-critics_now[0](torch.cat([state, actor(state).sigmoid()], 1)).mean()).backward()
        actor_optimizer.step()
        with torch.no_grad():
            for old, new in [(target_actor, actor), *zip(target_critics, critics_now, strict=True)]:
                for followed, leading in zip(old.parameters(), new.parameters(), strict=True):
                    followed.mul_(0.8).add_(0.2 * leading)
    assert agent.baseline == pytest.approx(float(baseline))
    probe = rng.normal(size=(4, 3))
    expected = actor(torch.from_numpy(probe)).sigmoid().detach().numpy()[:, 0]
    np.testing.assert_allclose([agent.act(row) for row in probe], expected, rtol=1e-9)
    probe = rng.normal(size=(4, 4))
    for ours, theirs in zip(agent.critics, critics_now, strict=True):
        np.testing.assert_allclose(ours.forward(probe)[0], theirs(torch.from_numpy(probe)).detach().numpy(), rtol=1e-9)


def test_the_oldest_transitions_make_room() -> None:
    agent = DDPG(1, replace(SMALL, capacity=4, baseline_rate=1.0), seed=0)
    agent.remember(np.zeros((3, 1)), np.zeros(3), np.full(3, 7.0))
    agent.remember(np.zeros((4, 1)), np.zeros(4), np.full(4, 2.0))
    agent.update()
    assert agent.baseline == 2.0


@pytest.mark.parametrize(("mean", "deviation"), [(0.5, 0.5), (0.0, 0.2), (0.97, 0.05), (1.0, 2.0)])
def test_exploration_is_the_truncated_normal_of_scipy(mean: float, deviation: float) -> None:
    reference = stats.truncnorm(-mean / deviation, (1 - mean) / deviation, loc=mean, scale=deviation)
    for uniform in (0.001, 0.2, 0.5, 0.9, 0.999):
        assert truncated_normal(mean, deviation, uniform) == pytest.approx(reference.ppf(uniform), abs=1e-9)


def test_exploration_decays_after_the_warm_up() -> None:
    agent = DDPG(1, AgentSettings(hidden=2), seed=0)
    assert agent.deviation(0) == agent.deviation(20) == 0.5
    assert agent.deviation(120) == pytest.approx(0.5 * 0.99**100)
