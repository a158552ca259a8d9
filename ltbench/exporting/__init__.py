"""Trained models for other programs: ONNX, safetensors, and the model card beside either."""
