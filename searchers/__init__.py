"""Learned and general-purpose search methods: the name of each, and where it is found.

Listing names imports none of them. A new searcher is one file and one line here.
"""

SEARCHERS: dict[str, str] = {
    "random": "searchers.random_search:RandomSearch",
    "tpe": "searchers.tpe:TPE",
    "nsga2": "searchers.nsga2:NSGA2",
    "arq": "searchers.arq:ARQ",
    "arq+": "searchers.arq:ARQPlus",
    "evolution": "searchers.evolution:Evolution",
}
