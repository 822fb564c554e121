"""DUSt3R as an estimator."""
