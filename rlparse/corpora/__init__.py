"""Corpora: readers, generators, vocabulary, cache and batches."""
