"""The Python edge of lmhead: text to tokens, reports, TensorBoard. Models, training and measuring are native."""
