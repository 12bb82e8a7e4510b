# SPDX-License-Identifier: Apache-2.0
"""llama.cpp in this process: prefill, speculative grammar-constrained decoding, KV cache."""
