#!/usr/bin/env python3
"""Makes breast-cancer.onnx and its known answers. Deterministic; run it again after changing a version below.

    python3 -m venv /tmp/models && /tmp/models/bin/pip install -r models/requirements.txt
    /tmp/models/bin/python models/make_models.py

The model is a logistic regression on scikit-learn's built-in breast cancer data (569 rows, 30 features; UCI, CC BY 4.0).
It is written by hand with standard-domain operators (Sub, Div, MatMul, Add, Sigmoid, Greater, Cast): the runtime does not
read the ai.onnx.ml operators that converters emit. The known answers are scikit-learn's, in float64, on held-out rows.
"""

import json
import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

HERE = pathlib.Path(__file__).parent
ANSWERS = 40


def train():
    data = load_breast_cancer()
    train_x, test_x, train_y, _ = train_test_split(data.data, data.target, test_size=0.25, random_state=7)
    # The answers must be about the numbers that the runtime sees.
    train_x, test_x = (x.astype(np.float32).astype(np.float64) for x in (train_x, test_x))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=0.5, max_iter=2000)).fit(train_x, train_y)
    return pipeline, test_x[:ANSWERS]


def to_onnx(pipeline):
    scaler, regression = pipeline.named_steps["standardscaler"], pipeline.named_steps["logisticregression"]

    def constant(name, values):
        return numpy_helper.from_array(np.asarray(values, dtype=np.float32), name)

    nodes = [
        helper.make_node("Sub", ["features", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weights"], ["weighted"]),
        helper.make_node("Add", ["weighted", "bias"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["probability"]),
        helper.make_node("Greater", ["probability", "half"], ["benign"]),
        helper.make_node("Cast", ["benign"], ["label"], to=TensorProto.FLOAT),
    ]
    features = len(scaler.mean_)
    graph = helper.make_graph(
        nodes,
        "breast-cancer",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", features])],
        [
            helper.make_tensor_value_info("probability", TensorProto.FLOAT, ["batch", 1]),
            helper.make_tensor_value_info("label", TensorProto.FLOAT, ["batch", 1]),
        ],
        [
            constant("mean", scaler.mean_),
            constant("scale", scaler.scale_),
            constant("weights", regression.coef_.T),
            constant("bias", regression.intercept_),
            constant("half", 0.5),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="make_models.py")
    model.ir_version = 8
    onnx.checker.check_model(model, full_check=True)
    return model


def main():
    pipeline, rows = train()
    (HERE / "breast-cancer.onnx").write_bytes(to_onnx(pipeline).SerializeToString(deterministic=True))
    probabilities = pipeline.predict_proba(rows)[:, 1]
    labels = pipeline.predict(rows)
    answers = [
        {"features": [float(v) for v in row], "probability": float(p), "label": int(label)}
        for row, p, label in zip(rows, probabilities, labels)
    ]
    with open(HERE / "breast-cancer.answers.json", "w", encoding="utf-8") as file:
        file.write("[\n" + ",\n".join("  " + json.dumps(answer) for answer in answers) + "\n]\n")


if __name__ == "__main__":
    main()
