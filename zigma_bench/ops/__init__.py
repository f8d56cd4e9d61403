"""The operators that depend on the order of tokens, and the backends that compute them."""
