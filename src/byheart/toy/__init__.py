"""The toy model of the paper: data, the ReLU-output network, kernels, training, runs and their page."""
