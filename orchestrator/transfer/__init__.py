"""Fine-tuning trained networks on other videos."""
