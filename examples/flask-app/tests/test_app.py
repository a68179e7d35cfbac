"""The app's own tests. They run inside the pipeline, over the very model that is shipped."""

import json
import os
import pathlib

import pytest

from app import create_app

DATA = json.loads((pathlib.Path(__file__).parent / "data" / "digits.json").read_text())
HERE = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def client():
    return create_app(os.environ.get("MODEL_DIR", HERE / "models" / "digits" / "1.0.0")).test_client()


def test_healthz(client):
    assert client.get("/healthz").get_json() == {"status": "ok"}


def test_version_names_code_and_model(client):
    answer = client.get("/version").get_json()
    assert set(answer) == {"code", "model"}
    assert set(answer["model"]) == {"name", "version", "digest"}


def test_score_recognises_held_out_digits(client):
    answer = client.post("/score", json={"pixels": DATA["pixels"]}).get_json()
    right = sum(p == l for p, l in zip(answer["predictions"], DATA["labels"]))
    assert right >= 93, f"only {right} of {len(DATA['labels'])} digits recognised"


def test_score_takes_one_row(client):
    answer = client.post("/score", json={"pixels": DATA["pixels"][0]}).get_json()
    assert len(answer["predictions"]) == 1
    assert 0 < answer["probabilities"][0] <= 1


@pytest.mark.parametrize(
    "pixels", [None, [], [1, 2, 3], "seven", [[float("nan")] * 64], [[1] * 63], {"a": 1}]
)
def test_score_refuses_bad_pixels(client, pixels):
    answer = client.post("/score", json={"pixels": pixels})
    assert answer.status_code == 400
    assert "pixels" in answer.get_json()["error"]


def test_score_refuses_a_body_that_is_not_json(client):
    assert client.post("/score", data="seven").status_code == 400
