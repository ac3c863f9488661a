"""Models and data sets on the Hugging Face Hub: how they are named, and how they get into the local cache."""
