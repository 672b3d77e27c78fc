"""Images, masks and splits: from files on disk, or from a generator, to the tensors a training step takes."""
