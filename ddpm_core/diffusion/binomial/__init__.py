"""Chains of bits: the functions of the Gaussian chain by the same names, where a step flips bits.

A bit is -1 or 1, so that images of two levels are bits as they are, and E[x_t | x_0] is
abar_t x_0. What a distribution of bits is given or predicted by are log odds, log p(1) - log p(-1):
there Bayes' rule is a sum, and nothing cancels.

Source: Sohl-Dickstein et al. 2015, arXiv:1503.03585, sections 2.1 to 2.4 and
table App. 1, binomial.
"""
