"""Export a model to ONNX Runtime or OpenVINO: the graph, its quantisation, the comparison with torch, the files."""
