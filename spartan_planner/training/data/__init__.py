"""Sources of examples: arrays, folders of images, torchvision, Hugging Face, text."""
