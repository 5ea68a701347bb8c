"""Models: how they are opened, what they weigh, how many parameters they have."""
