"""Defines detectors that learn on a CPU in a minute: SSD and Mask R-CNN over eight convolutions.

They are for trials and tests. They scale pictures to 160 pixels by default, where ssdlite320 takes
320 and Mask R-CNN 800. A step of the SSD costs a third of ssdlite320's.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.ssd import SSD, SSDHead

SIZE = 160
"""Height and width in pixels that pictures are scaled to."""
_CHANNELS = 128
"""Channels of each feature map."""
_ASPECT_RATIOS = [[2], [2, 3], [2, 3], [2]]
"""Aspect ratios besides 1 of the boxes of each feature map, of strides 8, 16, 32 and 64."""
_SCALES = [0.07, 0.15, 0.33, 0.6, 0.9]
"""Sides of the square boxes as shares of the picture's side; one more than feature maps."""


def tiny_ssd(num_classes: int) -> SSD:
    """Make the detector with random weights; its arguments and calls are those of torchvision.

    Args:
        num_classes: Labels, background included.
    """
    backbone = TinyBackbone()
    boxes = DefaultBoxGenerator(_ASPECT_RATIOS, scales=_SCALES)
    channels = [_CHANNELS] * len(_ASPECT_RATIOS)
    head = SSDHead(channels, boxes.num_anchors_per_location(), num_classes)
    return SSD(
        backbone,
        boxes,
        (SIZE, SIZE),
        num_classes,
        head=head,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
        score_thresh=0.05,
    )


def tiny_maskrcnn(num_classes: int) -> MaskRCNN:
    """Make a Mask R-CNN with random weights; its arguments and calls are those of torchvision.

    Args:
        num_classes: Labels, background included.
    """
    sides = ((16,), (32,), (64,), (128,))
    return MaskRCNN(
        TinyBackbone(),
        min_size=SIZE,
        max_size=2 * SIZE,
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.25, 0.25, 0.25],
        rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides)),
        rpn_pre_nms_top_n_train=400,
        rpn_post_nms_top_n_train=200,
        rpn_post_nms_top_n_test=100,
        box_head=TwoMLPHead(_CHANNELS * 7**2, _CHANNELS),
        box_predictor=FastRCNNPredictor(_CHANNELS, num_classes),
        box_batch_size_per_image=64,
        mask_head=MaskRCNNHeads(_CHANNELS, (64, 64), 1),
        mask_predictor=MaskRCNNPredictor(64, 64, num_classes),
    )


class TinyBackbone(nn.Module):
    """Computes feature maps of strides 8, 16, 32 and 64, with 128 channels each."""

    out_channels = _CHANNELS
    """Read by Mask R-CNN."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            _convolution(3, 16, stride=2),
            _convolution(16, 32, stride=2),
            _convolution(32, 32),
            _convolution(32, 64, stride=2),
            _convolution(64, _CHANNELS),
        )
        self.halvings = nn.ModuleList(
            nn.Sequential(_convolution(_CHANNELS, _CHANNELS, stride=2), _convolution(128, 128))
            for _ in _ASPECT_RATIOS[1:]
        )

    def forward(self, images: torch.Tensor) -> OrderedDict[str, torch.Tensor]:
        """Feature maps [B, 128, H / stride, W / stride] of pictures [B, 3, H, W], by number."""
        maps = [self.stem(images)]
        for halving in self.halvings:
            maps.append(halving(maps[-1]))
        return OrderedDict((str(number), features) for number, features in enumerate(maps))


def _convolution(channels_in: int, channels_out: int, *, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )
