"""The walk through the layers: what is seen, what actions mean, and the environment that other agents can use."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import suite
from searchers._walk import FEATURES, LayerWalk
from searchers.environment import PolicyEnvironment
from suite.contract.cost import enforce_budget
from suite.contract.space import SearchSpace
from suite.testing.toys import SPACES, limits, problem_on, small_layers, toy_problem


@pytest.mark.parametrize("space", SPACES)
def test_actions_of_a_policy_decide_that_policy(space: str) -> None:
    problem = problem_on(SPACES[space], limits(SPACES[space])["top"])
    walk = LayerWalk(problem)
    for seed in range(20):
        policy = problem.space.random(np.random.default_rng(seed))
        assert walk.policy(walk.actions(policy)) == policy


def test_actions_mean_the_bits_of_the_published_formula() -> None:
    space = SearchSpace(small_layers(3), choices=(2, 3, 4, 5, 6, 7, 8))
    walk = LayerWalk(problem_on(space, limits(space)["top"]))
    for action in np.linspace(0, 1, 57):
        bits = int(np.clip(np.round(action * (8 - 2 + 1) + 2 - 0.5), 2, 8))
        assert walk.policy([action, 0.5]).weights[1] == bits


def test_policies_go_through_the_wall_and_taken_actions_say_what_it_did() -> None:
    problem = toy_problem(budget="w2.5a2.5")
    walk = LayerWalk(problem)
    actions = np.random.default_rng(0).random(walk.steps)
    policy = walk.policy(actions)
    top = problem_on(problem.space, limits(problem.space)["top"])
    asked = LayerWalk(top).policy(actions)
    assert policy == enforce_budget(problem.space, asked, problem.budget) != asked
    taken = walk.taken(actions, policy)
    assert LayerWalk(top).policy(taken) == policy
    same = problem.space.encode(asked) == problem.space.encode(policy)
    np.testing.assert_array_equal(taken[same], actions[same])
    assert not same.all()


def test_states_hold_normalized_layers_the_bits_before_and_what_is_decided() -> None:
    problem = suite.load_problem("digits")
    walk, space = LayerWalk(problem), problem.space
    actions = np.random.default_rng(0).random(walk.steps)
    states = walk.states(actions)
    assert states.shape == (walk.steps, len(FEATURES)) == (2 * (len(space.layers) - 2), 10)
    assert states.min() >= 0
    assert states.max() <= 1
    np.testing.assert_array_equal(states[:, -1], np.tile([1.0, 0.0], walk.steps // 2))
    bits = np.clip(np.round(actions * 7 + 1.5), 2, 8)
    np.testing.assert_allclose(states[:, -2], [1.0, *bits[:-1] / 8])
    weights = np.array([layer.parameters for layer in space.layers])
    expected = (weights[1:-1] - weights.min()) / (weights.max() - weights.min())
    np.testing.assert_allclose(states[::2, FEATURES.index("weights")], expected)
    for step in range(walk.steps):
        np.testing.assert_array_equal(walk.state(step, actions[step - 1] if step else None), states[step])


def test_the_environment_passes_the_checks_of_gymnasium() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*not been initialised with an instance of `spec`.*")
        warnings.filterwarnings("ignore", message=".*check_env.*")
        check_env(PolicyEnvironment(toy_problem()), skip_render_check=True)


def test_an_episode_of_the_environment_is_rewarded_at_its_end_with_the_objective() -> None:
    problem = toy_problem()
    environment, walk = PolicyEnvironment(problem), LayerWalk(problem)
    actions = np.random.default_rng(1).random(walk.steps)
    environment.reset()
    for action in actions[:-1]:
        _, reward, ended, _, _ = environment.step(np.array([action], dtype=np.float32))
        assert (reward, ended) == (0.0, False)
    _, reward, ended, _, info = environment.step(np.array([actions[-1]], dtype=np.float32))
    assert ended
    assert info["policy"] == walk.policy(actions)
    assert reward == problem.evaluate(info["policy"], problem.fidelity).acr
    with pytest.raises(RuntimeError, match="call reset"):
        environment.step(np.array([0.5], dtype=np.float32))


def test_a_foreign_agent_learns_in_the_environment() -> None:
    """Stable-Baselines3's DDPG ends better than its random first episodes were."""
    from stable_baselines3 import DDPG as ForeignDDPG  # noqa: N811
    from stable_baselines3.common.noise import NormalActionNoise

    problem = toy_problem()
    environment = PolicyEnvironment(problem)
    steps, rewards = LayerWalk(problem).steps, []
    scored = problem.objective.score

    class Recorded(PolicyEnvironment):
        def step(self, action):  # type: ignore[no-untyped-def]
            result = super().step(action)
            if result[2]:
                rewards.append(scored(result[4]["metrics"]))
            return result

    agent = ForeignDDPG(
        "MlpPolicy",
        Recorded(problem),
        learning_starts=20 * steps,
        action_noise=NormalActionNoise(np.zeros(1), np.full(1, 0.2)),
        gamma=1.0,
        policy_kwargs={"net_arch": [64, 64]},
        seed=0,
        device="cpu",
    )
    agent.learn(120 * steps)
    assert len(rewards) == 120
    assert np.mean(rewards[-20:]) > np.mean(rewards[:20])
    observation, _ = environment.reset()
    assert agent.predict(observation, deterministic=True)[0].shape == (1,)
