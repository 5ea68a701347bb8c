"""The systems of the history of Mixture of Experts: what was published, and small ones that run."""
