"""The audit of a network that someone else trained: which training examples did it memorize?"""
