"""From text to token ids: what `lmhead prepare` and `lmhead measure --text` read, and how they encode it."""
