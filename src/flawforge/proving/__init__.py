"""What a model is worth: evaluation, forged-defect POD, drift, and the statistics behind them."""
