"""What the site generates while it is built."""
