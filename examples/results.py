# %% [markdown]
# # Reading results
#
# Runs and comparisons come back as pandas DataFrames, figures as matplotlib axes. First, a small comparison to read.

# %%
from suite import load_comparison, load_run
from suite.report import plot_certified_accuracy
from suite.studies.experiment import run_experiment

run_experiment(
    {
        "study": "compare",
        "problem": "digits",
        "searchers": ["random", "uniform"],
        "seeds": [0, 1],
        "spend": {"evaluations": 6, "images": 30, "noise": 8},
        "exam": {"images": 40, "n0": 10, "n": 100},
        "executor": "inline",
        "directory": "runs/example-results",
    }
)

# %% [markdown]
# A comparison has one row per searcher and seed, with everything measured and where it came from.

# %%
comparison = load_comparison("runs/example-results")
rows = comparison.rows
print(rows[["searcher", "seed", "search_estimate", "exam_score", "bops_share"]].to_string(index=False))
print(rows.groupby("searcher")["exam_score"].agg(["mean", "std"]))

# %% [markdown]
# A run has one row per trial.

# %%
trials = load_run("runs/example-results/searches/random-0").to_dataframe()
print(f"{len(trials)} trials, best search estimate {trials['acr'].max():.3f}")

# %% [markdown]
# Figures are ordinary matplotlib axes: change them, then save them.

# %%
axes = plot_certified_accuracy(comparison)
axes.set_title("Certified accuracy on 40 held-out digits")
axes.figure.savefig("certified_accuracy.png")
