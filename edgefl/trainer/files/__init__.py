"""The artifact directory. Its files come from other people: each is checked before anything is done with it.

manifest.py           what is in it, with sizes and hashes
loss_options.py       losses by name, their options and which values make sense
checkpoint.py         named tensors in the safetensors layout
inference_model.py    trained weights put back into the user's own file
vetting.py            what a graph would make ONNX Runtime do, found out first
protobuf.py           the wire format that ONNX files are in
"""
