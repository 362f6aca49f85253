"""Measuring the head from inside other people's training programs: one module a program, imported by name.

    from lmhead.integrations.transformers import HeadCallback      # transformers.Trainer
    from lmhead.integrations.lightning import HeadCallback         # Lightning
"""
