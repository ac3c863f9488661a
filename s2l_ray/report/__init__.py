"""Runs as their readers want them: side by side in the terminal, and as one page to send to a colleague."""
