"""A `.gguf` file as a model: its header, its tokenizer and its tensors, as a folder in the Hugging Face layout."""
