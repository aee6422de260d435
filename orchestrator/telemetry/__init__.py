"""What an operator sees of a run from afar: metrics for Prometheus and Grafana, and logs for TensorBoard and MLflow.

Everything here only watches: whatever breaks is told once, and the run goes on.
"""
