"""How long would it take on that cluster? The real searches on made-up trainings, failures and time."""
