"""Files to deploy, measured before they are offered."""
