# %% [markdown]
# # An ablation
#
# `bitcert ablate` runs a searcher and variants of it at equal spend and certifies the winners on held-out *search* images,
# so that options are never chosen on the exam. The verbs can be called from Python with the arguments of the shell.

# %%
from suite import load_comparison
from suite.cli import main
from suite.report import compare_searchers, seeds_needed

SEARCHER = "evolution:population=4:tournament=2"
status = main(
    f"ablate --problem digits --searcher {SEARCHER} --vary spend_budget=false --seeds 0,1 --evaluations 12 --images 30 "
    "--noise 8 --exam-images 40 --exam-n0 10 --exam-n 100 --executor inline --directory runs/example-ablation".split()
)
assert status == 0

# %% [markdown]
# Each variant is tested against the searcher as it stands: paired by seed, by a sign-flip test with Holm's correction. Two
# seeds cannot show anything, and the verdict says so.

# %%
comparison = load_comparison("runs/example-ablation")
for difference in compare_searchers(comparison, against=SEARCHER):
    print(f"{difference.searcher}: {difference.mean:+.4f}, p = {difference.p_adjusted:.2f}, {difference.verdict}")
print(f"seeds needed for a verdict on one variant: {seeds_needed(1)}")
