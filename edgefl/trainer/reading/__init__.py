"""The user's ONNX file, brought into the one form that has derivatives: flat, standard operators, one opset.

    source_model.py      read_model(): the file and the steps below, in their order
    flat_graph.py        the model while it is rewritten; what errors say of its nodes
    functions.py         the model's own functions inlined; operators without a rule by the body that ONNX defines
    ml_operators.py      what scikit-learn's converter writes, in standard operators
    untie.py             weights that an exporter merged, set apart
    strays.py            float vectors that are no weights
    fold.py              what is constant, computed
    shapes.py            the shape of everything else
    fixed_batch.py       models exported for one batch size, opened for any
    inference_form.py    Dropout, BatchNormalization, sequences, casts
    opset.py             nodes of other opsets in the words of ours
    decompose.py         operators that others can express

Every module needs the onnx package.
"""
