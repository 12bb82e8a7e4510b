"""llama.cpp in this process: prefill, speculative grammar-constrained decoding, KV cache."""
