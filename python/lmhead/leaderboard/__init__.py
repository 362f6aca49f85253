"""The leaderboard: heads, rules and optimisers compared under one protocol, as ordinary studies and one page."""
