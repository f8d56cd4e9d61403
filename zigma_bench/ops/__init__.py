"""The operators that know the order of tokens, and the backends that compute them."""
