"""Models that other engines run, behind one small interface: what is asked of them, and what comes back."""
