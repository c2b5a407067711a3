"""The site of the leaderboard: static pages that work from a folder, made from the entries and nothing else."""

from suite.board.site.build import Built as Built
from suite.board.site.build import build_site as build_site
