# %% [markdown]
# # A search, and held-out certification of its winner
#
# Evolutionary search on 8x8 digits, so small that it takes seconds: of its 12 evaluations four are second measurements of
# the best policies, and the other eight are part of the first, random generation. Drop `evaluations`, `fidelity` and `exam`
# to search and certify at the problem's own settings.

# %%
import suite
from suite.certify.exam import ExamSettings

problem = suite.load_problem("digits", budget="w3a3", sigma=0.25, seed=0)
print(
    f"{len(problem.space.layers)} layers, {problem.space.cardinality:.3g} policies, {problem.budget.limits[0].most:,} BOPs"
)

# %% [markdown]
# The run is journaled under `directory`. Interrupt it and run the cell again: it resumes.

# %%
run = suite.search(
    problem,
    suite.make_searcher("evolution", problem, seed=0),
    evaluations=12,
    fidelity=suite.Fidelity(images=40, noise=16),
    directory="runs/example-search",
)
print(f"best search estimate: ACR {run.score(run.best):.3f} with {problem.bops(run.best.policy):,} BOPs")

# %% [markdown]
# The search estimate is optimistic: the winner was chosen by it. Certify the winner on images and noise that no search
# has seen.

# %%
outcome = suite.examine(problem, run.best.policy, exam=ExamSettings(images=40, n0=20, n=200))
print(f"held-out ACR {outcome.metrics.acr:.3f}, certified at 0.25: {outcome.metrics.certified_accuracy[0.25]:.0%}")
print(run.best.policy.to_json())
