"""The study `post_steps`."""
