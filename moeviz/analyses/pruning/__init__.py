"""Cutting experts with evidence: which a model may do without, what that costs, and a checkpoint without them.

A criterion ranks the experts of each layer on some texts, and the loss is measured on others, next to experts cut at
random. Rankings and checkpoints name these texts. Bits of experts are planned and judged in the same way.
"""
