"""The leaderboard that anyone can enter: published results, their verification, and the site that lists them."""
