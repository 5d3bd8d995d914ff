"""Exported graphs and the engines that run them: ONNX Runtime and OpenVINO, without torch."""
