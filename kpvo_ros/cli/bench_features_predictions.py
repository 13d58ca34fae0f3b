"""kpvo bench features: what each way answers, kept on disk apart from any score.

Inference comes first and is written down, scoring reads it: a new metric needs no new inference,
and a new network none of its peers. What lies on disk is used again only when images, pairs and
what the way finds in the images at both ends are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import hashlib
from pathlib import Path
import re
import zipfile

import numpy as np

from kpvo_ros.cli.bench_features_ways import Way, fingerprint
from kpvo_ros.errors import CommandError
from kpvo_ros.frontend.matcher import match
from kpvo_ros.types import Features, Matches

RATIO = 0.9  # of the ratio test that is shown beside plain mutual nearest neighbours


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Answers of one way for a list of images and pairs of them.

    Attributes:
        keypoints: (N, 2) float32 pixels of each image.
        matches: mutual nearest neighbours of each pair, score 1 - best / second distance.
        pairs: (P, 2) indices of the images of each pair.
        image_descriptors: (images, G) float32 unit vectors, None without such a model.
    """

    keypoints: list[np.ndarray]
    matches: list[Matches]
    pairs: np.ndarray
    image_descriptors: np.ndarray | None

    def matched(self, index: int, ratio: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """(K, 2), (K, 2) pixels of the matches of a pair that pass the ratio test."""
        found, (first, second) = self.matches[index], self.pairs[index]
        kept = found.score >= 1.0 - ratio
        xy0 = self.keypoints[first][found.index0[kept]]
        return xy0, self.keypoints[second][found.index1[kept]]


class Predictor:
    """Runs a way over images, each image once in a run.

    Args:
        name: of the way.
        way: what extracts.
        folder: where predictions are kept.
    """

    def __init__(self, name: str, way: Way, folder: Path) -> None:
        self.name = name
        self.way = way
        self._folder = folder
        self._features: dict[str, Features] = {}

    def predict(
        self, part: str, images: Sequence[np.ndarray], pairs: Sequence[tuple[int, int]]
    ) -> Predictions:
        """Keypoints of images, matches of pairs.

        Args:
            part: name under which they are kept.
            images: (H, W) or (H, W, 3) uint8 each, at least one.
            pairs: indices of the images.

        Raises:
            CommandError: they cannot be written.
        """
        indices = np.array(pairs, np.int64).reshape(-1, 2)
        digests = [_digest(image) for image in images]
        key = self._key(images, digests, indices)
        path = self._folder / f'{part}_{_file_name(self.name)}.npz'
        kept = _read(path, key)
        if kept is not None:
            return kept
        features = [self._extract(i, d) for i, d in zip(images, digests, strict=True)]
        vectors = [f.image_descriptor for f in features if f.image_descriptor is not None]
        made = Predictions(
            [f.xy for f in features],
            [match(features[i].descriptor, features[j].descriptor) for i, j in indices],
            indices,
            np.stack(vectors) if len(vectors) == len(images) else None,
        )
        _write(path, key, made)
        return made

    def _extract(self, image: np.ndarray, digest: str) -> Features:
        if digest not in self._features:
            self._features[digest] = self.way.extract(image)
        return self._features[digest]

    def _key(self, images: Sequence[np.ndarray], digests: list[str], pairs: np.ndarray) -> str:
        digest = hashlib.sha256(pairs.tobytes())
        ends = (fingerprint(self.way, images[0]), fingerprint(self.way, images[-1]))
        for word in (*digests, *ends):
            digest.update(word.encode())
        return digest.hexdigest()


# ------------------------------------------------------------------------------------ private


def _digest(image: np.ndarray) -> str:
    digest = hashlib.sha256(repr(image.shape).encode())
    digest.update(np.ascontiguousarray(image).tobytes())
    return digest.hexdigest()


def _file_name(name: str) -> str:
    """A way may be a path: its end for the reader, a digest to tell it from others."""
    plain = re.sub(r'[^\w.-]', '_', Path(name).name)
    return plain if plain == name else f'{plain}_{hashlib.sha256(name.encode()).hexdigest()[:8]}'


def _write(path: Path, key: str, made: Predictions) -> None:
    vectors = made.image_descriptors
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            key=np.array(key),
            pairs=made.pairs,
            keypoint_counts=np.array([len(xy) for xy in made.keypoints]),
            xy=np.concatenate([xy.reshape(-1, 2) for xy in made.keypoints]),
            match_counts=np.array([len(found) for found in made.matches], np.int64),
            index0=_joined([found.index0 for found in made.matches], np.int64),
            index1=_joined([found.index1 for found in made.matches], np.int64),
            score=_joined([found.score for found in made.matches], np.float32),
            image_descriptors=np.zeros((0, 0), np.float32) if vectors is None else vectors,
        )
    except OSError as error:
        raise CommandError(
            f'{path}: cannot be written ({error.strerror}); choose another --work'
        ) from None


def _read(path: Path, key: str) -> Predictions | None:
    """What was kept under that key; None when there is none, or the file is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file['key']) != key:
                return None
            content = {name: file[name] for name in file.files}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
    cuts = np.cumsum(content['match_counts'])[:-1]
    columns = [np.split(content[name], cuts) for name in ('index0', 'index1', 'score')]
    vectors = content['image_descriptors']
    return Predictions(
        np.split(content['xy'], np.cumsum(content['keypoint_counts'])[:-1]),
        [Matches(*row) for row in zip(*columns, strict=True)] if len(content['pairs']) else [],
        content['pairs'],
        vectors if len(vectors) else None,
    )


def _joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.zeros(0, dtype)
