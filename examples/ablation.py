# %% [markdown]
# # An ablation
#
# `ablate` runs a searcher and variants of it at equal spend and certifies the winners on held-out *search* images, so that
# options are never chosen on the exam. The dictionary below is the content of an experiment file.

# %%
from suite.report import compare_searchers, seeds_needed
from suite.studies.experiment import run_experiment

SEARCHER = "evolution:population=4:parents=2"
comparison = run_experiment(
    {
        "study": "ablate",
        "problem": "digits",
        "searcher": SEARCHER,
        "vary": [{"mutation_rate": 0.3}],
        "seeds": [0, 1],
        "spend": {"evaluations": 12, "images": 30, "noise": 8},
        "exam": {"images": 40, "n0": 10, "n": 100},
        "executor": "inline",
        "directory": "runs/example-ablation",
    }
)

# %% [markdown]
# Each variant is tested against the searcher as it stands: paired by seed, by a sign-flip test with Holm's correction. Two
# seeds cannot show anything, and the verdict says so.

# %%
for difference in compare_searchers(comparison, against=SEARCHER):
    print(f"{difference.searcher}: {difference.mean:+.4f}, p = {difference.p_adjusted:.2f}, {difference.verdict}")
print(f"seeds needed for a verdict on one variant: {seeds_needed(1)}")
