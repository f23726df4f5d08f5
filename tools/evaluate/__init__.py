"""What eviction costs a model: tasks x policies x mixes x budgets, one full prefill a picture. `foveal evaluate`."""
