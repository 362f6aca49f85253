"""Zero-shot scores of any model: the native scorer, and a backend of it for lm-evaluation-harness."""
