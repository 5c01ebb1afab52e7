"""The page, and the requests that it makes: what a transformer does to a moved image."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, Response

from pipelines.serving.deployment import Deployed, Deployment
from pipelines.serving.examples import Example, load_examples
from pipelines.serving.limits import Limits
from pipelines.serving.loaded_version import LoadedVersion, Outputs
from pipelines.serving.pictures import encode, encode_rectified
from pipelines.serving.rectification import parse_theta
from pipelines.serving.requests import IMAGE_FILE, ImageFile, decode_files
from pipelines.serving.sliders import SLIDERS, Motion, grid_lines, measure_path, motions_along, move

PAGE = files("pipelines.serving") / "page.html"
# The page has its scripts and styles in itself, and reaches no other server.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
Find = Callable[[str | None], Awaitable[Deployed]]
FILE_BODY = {"requestBody": {"content": {"application/octet-stream": IMAGE_FILE}}}


class Place(Motion):
    """A request of the page.

    Args:
        version: label of a version; None: the one that is served.
        example: index of a test image; None: the body is an image file.
    """

    version: str | None = None
    example: int | None = None


class PathPlace(Place):
    """The same, with the slider whose path is asked for."""

    slider: str


def make_page(deployment: Deployment, find: Find, executor: ThreadPoolExecutor, limits: Limits) -> APIRouter:
    """Return the routes of the page.

    Args:
        deployment: the versions.
        find: returns the version with a label.
        executor: decodes and moves images.
        limits: limits on the images of a request.
    """
    router = APIRouter(tags=["page"])
    html = PAGE.read_text(encoding="utf-8")
    examples: dict[str, list[Example]] = {}  # digest of the data → test images

    async def run(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)

    async def examples_of(version: LoadedVersion) -> list[Example]:
        if version.data_digest not in examples:
            examples[version.data_digest] = await asyncio.to_thread(load_examples, version.data_digest)
        return examples[version.data_digest]

    async def pixels_of(request: Request, place: Place, version: LoadedVersion) -> np.ndarray:
        """Return the image of a request, uint8 (C, H, W)."""
        if place.example is None:
            file = ImageFile("the image", await request.body())
            return (await run(decode_files, version, [file], limits))[0]
        found = await examples_of(version)
        if not 0 <= place.example < len(found):
            raise HTTPException(404, f"example: {place.example} given; there are {len(found)} test images")
        return found[place.example].pixels

    @router.get("/", response_class=HTMLResponse)
    async def page() -> Response:
        """The page."""
        return HTMLResponse(html, headers={"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"})

    @router.get("/model")
    async def model(version: Annotated[str | None, Query()] = None) -> dict:
        """What the page must know: versions, classes, sliders and test images."""
        deployed = await find(version)
        loaded, labels = deployed.version, await asyncio.to_thread(deployment.labels)
        return {
            "model": deployment.name,
            "versions": labels,
            "number": loaded.number,
            "variant": loaded.metadata.variant,
            "device": loaded.device,
            "classes": list(loaded.metadata.classes),
            "canvas": loaded.metadata.canvas,
            "sliders": [slider._asdict() for slider in SLIDERS.values()],
            "examples": [
                {"label": example.label, "picture": await run(encode, example.pixels)}
                for example in await examples_of(loaded)
            ],
        }

    @router.post("/play", openapi_extra=FILE_BODY)
    async def play(request: Request, place: Annotated[Place, Query()]) -> dict:
        """Move an image, and answer what the model makes of it."""
        deployed = await find(place.version)
        pixels = await pixels_of(request, place, deployed.version)
        moved = await run(move, pixels, [place])
        outputs = await deployed.queue.predict(moved)
        return await run(_show, deployed.version, pixels, moved[0], outputs)

    @router.post("/path", openapi_extra=FILE_BODY)
    async def path(request: Request, place: Annotated[PathPlace, Query()]) -> dict:
        """Answer what θ undoes over the positions of a slider."""
        if (slider := SLIDERS.get(place.slider)) is None:
            raise HTTPException(400, f"slider: {place.slider!r} given; expected one of {', '.join(SLIDERS)}")
        deployed = await find(place.version)
        pixels = await pixels_of(request, place, deployed.version)
        outputs = await deployed.queue.predict(await run(move, pixels, motions_along(place, slider)))
        if outputs.theta is None:
            return {"path": None}
        transform, theta = parse_theta(outputs.theta)
        _, height, width = deployed.version.metadata.image_shape
        measured = await run(measure_path, slider, transform, theta, (height, width))
        return {"path": None if measured is None else measured._asdict()}

    return router


def _show(version: LoadedVersion, pixels: np.ndarray, moved: np.ndarray, outputs: Outputs) -> dict:
    """Return everything that the page shows of one moved image, uint8 (C, H, W)."""
    metadata = version.metadata
    shown: dict = {
        "number": version.number,
        "variant": metadata.variant,
        "original": encode(pixels),
        "moved": encode(moved),
        "probabilities": outputs.probabilities[0].tolist(),
        "theta": None,
    }
    if outputs.theta is None:
        return shown
    transform, theta = parse_theta(outputs.theta)
    summary = {} if transform.heads > 1 else transform.describe(theta, *metadata.image_shape[1:])
    return shown | {
        "theta": outputs.theta[0].tolist(),
        "summary": {name: float(value[0]) for name, value in summary.items()},
        "rectified": encode_rectified([moved], outputs.theta, metadata)[0],
        "grid": grid_lines(transform, theta),
    }
