"""The models in memory, the queues of those who wait for them, and results that all visitors share."""
