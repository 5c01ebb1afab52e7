"""The server over HTTP: image files, MLflow's scoring server, tokens; benchmarks/serving.py sends 10,000 requests."""

import base64
import contextlib
import io
import json
import struct
import threading
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from mlflow.exceptions import MlflowException
from PIL import Image
from schemathesis import GenerationMode
from schemathesis.core.result import Ok

from pipelines.preparation.images import open_image, to_pixels
from pipelines.registry.export import DIGEST_TAG
from pipelines.serving.deployment import Deployment
from pipelines.serving.limits import Limits
from pipelines.settings.image_form import ImageForm

NAME = "stn-mine"
JSON = "application/json"
CLASSES = ["cat", "dog", "eel", "fox"]
HEALTH = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]  # requests take long
TOKEN = "a-secret-of-some-length"

CONTENT_TYPES = st.sampled_from([JSON, "application/json; charset=utf-8", "text/csv", "application/octet-stream", ";"])
KEYS = st.sampled_from(["inputs", "instances", "dataframe_split", "dataframe_records", "params", "messages", "x"])
SCALARS = st.none() | st.booleans() | st.integers(-1, 300) | st.floats(allow_nan=False) | st.text(max_size=4)
JSON_VALUES = st.dictionaries(
    KEYS,
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
        max_leaves=8,
    ),
    max_size=2,
)  # fmt: skip


def image_file(index: int, form: str = "PNG", size: tuple[int, int] = (8, 8), **options) -> bytes:
    """An image whose first pixel is the index of a test image; lossless formats keep it."""
    pixels = np.random.default_rng(index).integers(0, 200, size, dtype=np.uint8)
    pixels[0, 0] = index
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def form_of(files: Sequence[tuple[str, bytes]]) -> tuple[bytes, str]:
    """A form with files, and its content type."""
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files
    ]
    return b"".join([*parts, b"--x--\r\n"]), "multipart/form-data; boundary=x"


def test_pixels_as_json_are_answered_and_bad_requests_refused_with_a_reason(serve):
    send = serve("2")
    images = np.zeros((3, 1, 8, 8), dtype=int)
    images[:, 0, 0, 0] = 6, 165, 190  # indices of test images; version 2 is correct up to 164
    for path in ("/ping", "/version"):
        answer = send("GET", path)
        assert answer.status == 200 and answer.body
    good = json.dumps({"inputs": images.tolist()}).encode()
    bad = [
        {"inputs": images[:, :, 1:].tolist()},
        {"inputs": images[0].tolist()},
        {"inputs": (images + 256).tolist()},
        {"inputs": (images - 1).tolist()},
        {"inputs": np.full((1, 1, 8, 8), np.nan).tolist()},
        {"inputs": [[[[1, 2], [3]]]]},
        {"inputs": []},
        {"inputs": None},
        {"pictures": images.tolist()},
        [1, 2],
        {"dataframe_split": {"columns": ["image"], "data": []}},
        {"dataframe_split": {"columns": ["other"], "data": [["AAAA"]]}},
        {"dataframe_split": {"columns": ["image"], "data": [[1]]}},
        {"dataframe_split": {"columns": ["image"], "data": [["AAAA"]]}},
        {"dataframe_records": 1},
    ]
    for content, headers in (
        *((json.dumps(content).encode(), {"content_type": JSON}) for content in bad),
        (b"", {"content_type": JSON}),
        (b'{"inputs": [[', {"content_type": JSON}),
        (b"\xff\xfe\x00", {"content_type": JSON}),
        (good, {"content_type": "text/plain"}),
        (good, {}),
    ):
        answer = send("POST", "/invocations", content, **headers)
        assert 400 <= answer.status < 500 and answer.body, (content, answer)
    answer = send("POST", "/invocations", good, content_type=JSON)
    assert answer.status == 200
    predictions = answer.json()["predictions"]
    assert predictions["class"] == [6 % 4, (165 + 1) % 4, (190 + 1) % 4]
    assert np.shape(predictions["probabilities"]) == (3, 4) and np.shape(predictions["theta"]) == (3, 2, 3)


@pytest.mark.parametrize("orient", ["dataframe_split", "dataframe_records"])
def test_mlflows_clients_send_files_in_a_binary_column(serve, orient):
    send = serve("2")
    files = [base64.b64encode(image_file(i)).decode() for i in (6, 165)]
    records = [{"image": file} for file in files]
    table = {"columns": ["image"], "data": [[file] for file in files]}
    body = json.dumps({orient: table if orient == "dataframe_split" else records}).encode()
    answer = send("POST", "/invocations", body, content_type=JSON)
    assert answer.status == 200, answer
    assert answer.json()["predictions"]["class"] == [6 % 4, (165 + 1) % 4]


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "GIF", "PPM"])
def test_an_image_file_in_any_format_is_classified(serve, form):
    send = serve("2")
    answer = send("POST", "/predict", image_file(165, form), content_type="image/unknown")
    assert answer.status == 200, answer
    assert answer.json()["model"] == NAME and answer.json()["version"] == "2"
    (prediction,) = answer.json()["predictions"]
    assert prediction["class"] == CLASSES[(165 + 1) % 4]
    assert prediction["probabilities"].keys() == set(CLASSES)
    np.testing.assert_allclose(prediction["theta"], [[0, 1, 0], [-1, 0, 0]])


def pixels_of(content: bytes) -> np.ndarray:
    return to_pixels(open_image(content), ImageForm(8, 8, 1))


def test_files_are_resized_as_by_prepare(serve):
    """The first pixel of the resized image decides the class."""
    send, content = serve("2"), image_file(250, "JPEG", (40, 30))
    index = int(pixels_of(content)[0, 0, 0])
    answer = send("POST", "/predict", content)
    assert answer.json()["predictions"][0]["class"] == CLASSES[(index + (index >= 165)) % 4]


def test_a_form_has_several_files_and_answers_in_their_order(serve):
    send, indices = serve("2"), (6, 165, 190, 7)
    body, content_type = form_of([(f"{i}.png", image_file(i)) for i in indices])
    answer = send("POST", "/predict?rectified=true", body, content_type=content_type)
    assert answer.status == 200, answer
    predictions = answer.json()["predictions"]
    assert [row["class"] for row in predictions] == [CLASSES[(i + (i >= 165)) % 4] for i in indices]
    for index, row in zip(indices, predictions, strict=True):
        picture = Image.open(io.BytesIO(base64.b64decode(row["rectified"])))
        # θ turns the grid by 90° counterclockwise, so the content is turned clockwise.
        np.testing.assert_array_equal(np.asarray(picture), np.rot90(pixels_of(image_file(index))[0], -1))


def test_what_is_no_image_is_refused_by_its_name(serve):
    send = serve()
    body, content_type = form_of([("good.png", image_file(1)), ("bad.png", image_file(1)[:40])])
    for path, content, headers, reason in (
        ("/predict", b"", {}, "the body: not a readable image (the file is empty)"),
        ("/predict", b"hello", {}, "the body: not a readable image (its content is no image)"),
        ("/predict", body, {"content_type": content_type}, "bad.png: not a readable image"),
        ("/predict", b"--x--\r\n", {"content_type": content_type}, "the form has no file"),
        ("/predict", b"--y", {"content_type": "multipart/form-data"}, "boundary"),
        ("/predict?version=best", image_file(1), {}, "version: 'best' given; this server has champion"),
        ("/play?example=99", b"", {}, "example: 99 given"),
        ("/path?example=0&slider=size", b"", {}, "slider: 'size' given"),
    ):
        answer = send("POST", path, content, **headers)
        assert 400 <= answer.status < 500 and reason in answer.json()["detail"], answer
    assert send("POST", "/predict", image_file(1)).status == 200


def test_a_request_has_limits_on_bytes_pixels_and_images(serve):
    send = serve(limits=Limits(request_bytes=5000, pixels=200, images=3))
    small = [("a.png", image_file(1))] * 4
    body, content_type = form_of(small[:3])
    assert send("POST", "/predict", body, content_type=content_type).status == 200
    body, content_type = form_of(small)
    answer = send("POST", "/predict", body, content_type=content_type)
    assert answer.status == 400 and "Maximum number of files is 3" in answer.json()["detail"]
    answer = send("POST", "/predict", image_file(1, size=(20, 20)))
    assert answer.status == 413 and "at most 200 pixels" in answer.json()["detail"]
    assert send("POST", "/predict", image_file(1, "BMP", (80, 80))).status == 413
    exif = Image.Exif()
    exif[0x010E] = "a description"
    damaged = image_file(1, "AVIF", (20, 20), exif=exif).replace(b"Exif\0\0MM", b"Exif\0\0XX")
    with pytest.raises(ValueError, match="Exif"):
        Image.open(io.BytesIO(damaged))
    assert send("POST", "/predict", damaged).status == 413
    header = bytearray(image_file(1))
    header[16:24] = struct.pack(">2I", 20_000, 20_000)  # more than PIL opens
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    assert send("POST", "/predict", bytes(header)).status == 413
    rows = [[base64.b64encode(small[0][1]).decode()]] * 4
    body = json.dumps({"dataframe_split": {"columns": ["image"], "data": rows}}).encode()
    answer = send("POST", "/invocations", body, content_type=JSON)
    assert answer.status == 400 and "at most 3 images" in answer.json()["message"]


def test_without_the_token_only_the_page_and_pings_are_answered(serve):
    send = serve(token=TOKEN)
    for path in ("/", "/ping", "/version"):
        assert send("GET", path).status == 200
    requests = [("GET", "/model"), ("GET", "/openapi.json"), ("POST", "/predict"), ("POST", "/invocations")]
    for method, path in (*requests, ("POST", "/play"), ("POST", "/ping")):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}):
            assert send(method, path, image_file(1), **headers).status == 401, (path, headers)
    assert send("POST", "/predict", image_file(1), authorization=f"Bearer {TOKEN}").status == 200
    assert send("GET", "/model", authorization=f"Bearer {TOKEN}").status == 200


def test_pages_of_others_are_refused_unless_they_are_named(serve):
    origin = "https://example.com"
    allowed = "access-control-allow-origin"
    assert allowed not in serve()("POST", "/predict", image_file(1), origin=origin).headers
    send = serve(origins=[origin], token=TOKEN)
    preflight = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    assert send("OPTIONS", "/predict", origin=origin, **preflight).headers[allowed] == origin
    authorized = {"authorization": f"Bearer {TOKEN}"}
    assert send("POST", "/predict", image_file(1), origin=origin, **authorized).headers[allowed] == origin
    assert allowed not in send("POST", "/predict", image_file(1), origin="https://evil.example", **authorized).headers


def test_other_hosts_are_refused_without_a_token(serve):
    """A page whose own name leads to this machine (DNS rebinding) has its name in the header Host."""
    send = serve()
    for host in ("127.0.0.1", "localhost:5001", "[::1]:5001", "LOCALHOST"):
        assert send("GET", "/ping", host=host).status == 200, host
    for host in ("evil.example", "evil.example:5001", "localhost.evil.example", "127.0.0.1.evil.example", "[::2]", ""):
        for method, path in (("GET", "/"), ("GET", "/model"), ("POST", "/predict"), ("POST", "/invocations")):
            assert send(method, path, image_file(1), host=host).status == 400, host
    send = serve(token=TOKEN, hosts=["*"])
    assert send("POST", "/predict", image_file(1), host="a.example", authorization=f"Bearer {TOKEN}").status == 200


@pytest.mark.parametrize("error", [MlflowException("no answer\nat line 3"), ConnectionError("no answer")])
def test_a_registry_out_of_reach_is_503_and_loaded_versions_answer(serve, monkeypatch, error):
    send = serve()

    def fail(*_):
        raise error

    monkeypatch.setattr("pipelines.serving.deployment.aliases_of", fail)
    for method, path in (("GET", "/model"), ("POST", "/predict?version=challenger")):
        answer = send(method, path, image_file(1))
        assert (answer.status, answer.headers["retry-after"]) == (503, "60")
        assert answer.json() == {"detail": "the registry or its files cannot be read: no answer"}
    assert send("POST", "/predict", image_file(1)).status == 200


def test_a_champion_that_moves_answers_unless_it_fails(serve, store, monkeypatch):
    refreshed = threading.Event()
    refresh = Deployment.refresh

    def refresh_and_note(self):
        refresh(self)
        refreshed.set()

    monkeypatch.setattr(Deployment, "refresh", refresh_and_note)
    send = serve(reload_s=0.01)

    def answers_after(version: str) -> str:
        store.client.set_registered_model_alias(NAME, "champion", version)
        for _ in range(2):  # the first look may have begun before the alias moved
            refreshed.clear()
            assert refreshed.wait(60)
        answer = send("POST", "/predict", image_file(1))
        assert answer.status == 200
        return answer.json()["version"]

    assert answers_after("2") == "2"
    store.client.set_model_version_tag(NAME, "3", f"{DIGEST_TAG}network.pt2", "0" * 64)
    assert answers_after("3") == "2"
    with monkeypatch.context() as patch:
        patch.setattr("mlflow.pyfunc.load_model", lambda _: 1 / 0)
        assert answers_after("4") == "2"
    assert answers_after("4") == "4"


def test_the_page_needs_no_network(serve):
    send = serve()
    answer = send("GET", "/")
    assert answer.status == 200 and answer.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert b"http://" not in answer.body.replace(b"http://www.w3.org/2000/svg", b"") and b"https://" not in answer.body
    assert send("GET", "/docs").status == send("GET", "/redoc").status == 404  # FastAPI's pages need it


@pytest.mark.slow
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=str)
def test_no_request_of_the_openapi_page_is_answered_with_500(serve, mode):
    """Requests that the schema allows, and requests that it does not."""
    send = serve("2", limits=Limits(request_bytes=10_000))
    schema = schemathesis.openapi.from_dict(send("GET", "/openapi.json").json())
    base_url = "http://{}:{}".format(*send.address)
    operations = [found.ok() for found in schema.get_all_operations() if isinstance(found, Ok)]
    statuses: dict[str, set[int]] = {operation.label: set() for operation in operations}
    assert {"POST /predict", "POST /play", "POST /path", "GET /model"} <= statuses.keys()
    for operation in operations:

        @settings(max_examples=30, deadline=None, suppress_health_check=HEALTH, derandomize=True)
        @given(operation.as_strategy(generation_mode=mode))
        def call(case):
            response = case.call(base_url=base_url)
            statuses[case.operation.label].add(response.status_code)
            assert response.status_code < 500, response.text

        with contextlib.suppress(Unsatisfiable):  # every request of an operation without parameters is allowed
            call()
    assert any(statuses.values())


@settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=HEALTH)
@given(st.one_of(JSON_VALUES.map(lambda value: json.dumps(value).encode()), st.binary(max_size=200)), CONTENT_TYPES)
def send_any(send, content: bytes, content_type: str) -> None:
    answer = send("POST", "/invocations", content, content_type=content_type)
    assert answer.status < 500, answer


def test_no_request_to_mlflows_server_is_answered_with_500(serve):
    send_any(serve("2"))
