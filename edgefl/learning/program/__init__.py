"""A program's own tree: small broadcasts that all members see in one order, and sums of small vectors. Pure.

    programs.py     all such trees of one device; which event belongs to which
    tree.py         one tree: its neighbours, its timers, and the two parts below
    broadcasts.py   to the root, numbered there, and down to everybody
    sums.py         weighted sums of a round, added up on their way to the root
    root_sum.py     the sum of one round, and how devices are counted once

The Python API (edgefl/api) is above it, the overlay's trees are below.
"""
