"""Text to tokens: corpora, tokenizers and batches. It imports nothing of ours but the errors."""
