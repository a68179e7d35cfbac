"""The example service: recognises handwritten digits.

GET  /healthz  200 once the model is loaded
GET  /version  which code and which model this process serves
POST /score    {"pixels": [[64 numbers 0..16], …]} -> {"predictions": […], "probabilities": […]}
"""

import os

from flask import Flask, jsonify, request

from model import Model, BadInput

# A request of this size holds about 10,000 digits; more is refused before it is read.
MAX_BODY_BYTES = 4 * 1024 * 1024


def create_app(model_dir=None):
    app = Flask(__name__)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    model = Model.load(model_dir or os.environ["MODEL_DIR"])

    @app.get("/healthz")
    def healthz():
        return jsonify(status="ok")

    @app.get("/version")
    def version():
        return jsonify(
            code=os.environ.get("MODELSHIP_REVISION", "unknown"),
            model={
                "name": os.environ.get("MODELSHIP_MODEL_NAME", "unknown"),
                "version": os.environ.get("MODELSHIP_MODEL_VERSION", "unknown"),
                "digest": os.environ.get("MODELSHIP_MODEL_DIGEST", "unknown"),
            },
        )

    @app.post("/score")
    def score():
        body = request.get_json(silent=True)
        if not isinstance(body, dict):
            return jsonify(error="the body must be a JSON object with a key 'pixels'"), 400
        try:
            predictions, probabilities = model.predict(body.get("pixels"))
        except BadInput as problem:
            return jsonify(error=str(problem)), 400
        return jsonify(
            predictions=predictions.tolist(),
            probabilities=[round(float(p), 4) for p in probabilities],
        )

    return app
