"""Nearest rows of a stream: exact search over a store, FAISS indexes beside it, and moments made of the rows found."""
