"""The contract between searchers, problems and everything else: plain data and small protocols, without torch or I/O."""
