"""What a sweep answers: comparison, leaderboard, edges, importance."""
