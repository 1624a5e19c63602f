"""CamVid (Brostow et al., 2009) as split in SegNet's tutorial: street images with 11 classes.

Layout: `<part>/*.jpg|png` and `<part>annot/*.png` of the same names, part train, val or test. Values 0..10
are classes, 11 is unlabelled. The cameras' calibration is not told; intrinsics are nominal.
"""

from __future__ import annotations

from pathlib import Path

from perception_core.configuration import nearest
from training.datasets.dataset import SampleDataset, checked_index
from training.datasets.files import DataError, read_image, read_label_image
from training.datasets.frame_input import FrameInput
from training.datasets.sample import DenseLabels, Provenance, Sample
from training.datasets.single_view import CAMERA, class_label, class_table, resize_of, single_view

CAMVID_CLASSES: tuple[str, ...] = (
    *("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "cyclist"),
)

#: Images as recorded: image networks are trained on crops of them.
AS_RECORDED = FrameInput(image=None)


class CamVid(SampleDataset):
    """One part of CamVid."""

    name = "camvid"

    def __init__(self, root: str | Path, part: str = "train", frame_input: FrameInput = AS_RECORDED) -> None:
        """Lists the images.

        Args:
            root: Folder with train/, trainannot/ …
            part: train, val or test.
            frame_input: Size of the images.

        Raises:
            DataError: There is no such part, or images have no annotation.
        """
        self.root, self.frame_input = Path(root), frame_input
        folder, labels = self.root / part, self.root / f"{part}annot"
        self._images = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".png"))
        if not self._images:
            parts = [path.name.removesuffix("annot") for path in self.root.glob("*annot")]
            raise DataError(folder, "holds no images" + nearest(part, parts))
        self._labels = [labels / f"{path.stem}.png" for path in self._images]
        for path in self._labels:
            if not path.is_file():
                raise DataError(path, "annotation of an image is missing")
        self._table = class_table({index: index for index in range(len(CAMVID_CLASSES))})

    def __len__(self) -> int:
        return len(self._images)

    def labels_of(self, index: int) -> frozenset[str]:
        """Every image is segmented."""
        return frozenset({"semantic_segmentation"})

    def token(self, index: int) -> str:
        """Returns the image's name."""
        return self._images[index].stem

    def __getitem__(self, index: int) -> Sample:
        index = checked_index(index, len(self))
        path, label_path = self._images[index], self._labels[index]
        image = read_image(path)
        size = (image.shape[1], image.shape[0])
        resize = resize_of(size, self.frame_input.image)
        label = class_label(read_label_image(label_path, size), self._table, label_path, resize)
        return Sample(
            provenance=Provenance(
                self.name,
                path.stem,
                path.stem.split("_")[0],
                files={CAMERA: str(path), "semantic_segmentation": str(label_path)},
            ),
            cameras=single_view(image, resize),
            dense=DenseLabels(semantic_segmentation=label, semantic_classes=CAMVID_CLASSES),
            labels_present=self.labels_of(index),
        )
