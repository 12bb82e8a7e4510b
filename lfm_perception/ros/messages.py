# SPDX-License-Identifier: Apache-2.0
"""Conversion between ROS messages and values. Pure: no node, no topic, no state.

Boxes are in pixels in messages and normalized in values (see `geometry`). Markers are in the camera's optical
frame (REP 103: x right, y down, z forward), on an image plane 1 m wide and 1 m in front of the camera.
"""

from __future__ import annotations

import array
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import Point
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import ColorRGBA, Header
from vision_msgs.msg import (
    Classification,
    Detection2D,
    Detection2DArray,
    ObjectHypothesis,
    ObjectHypothesisWithPose,
)
from visualization_msgs.msg import ImageMarker, Marker, MarkerArray

from lfm_perception import cdr, scene
from lfm_perception.colours import ACTIVE, IDLE, Colour, track_colour
from lfm_perception.geometry import Box
from lfm_perception.media import images
from lfm_perception.media.bit_depth import BitDepth
from lfm_perception.stamps import NANOSECONDS, join_stamp, split_stamp

MIN_STAMP_NS, MAX_STAMP_NS = join_stamp(-(2**31), 0), join_stamp(2**31 - 1, NANOSECONDS - 1)
"""The range of stamps in messages."""

LIFETIME = Duration(sec=2)
"""Time after which a marker vanishes unless it is published again."""

LINE_M = 0.004
TEXT_M = 0.03


def stamp_ns(stamp: Time) -> int:
    """A stamp as nanoseconds."""
    return join_stamp(int(stamp.sec), int(stamp.nanosec))


def time(nanoseconds: int) -> Time:
    """Nanoseconds as the nearest stamp that a message can hold."""
    sec, nanosec = split_stamp(min(max(nanoseconds, MIN_STAMP_NS), MAX_STAMP_NS))
    return Time(sec=sec, nanosec=nanosec)


def header(nanoseconds: int, frame_id: str) -> Header:
    return Header(stamp=time(nanoseconds), frame_id=frame_id)


def frame(
    raw: bytes, topic: str, *, compressed: bool, width: int | None = None, depth: BitDepth | None = None
) -> scene.Frame:
    """Decode a serialized Image or CompressedImage.

    Args:
        topic: what error messages call the source of the image.
        width: decode a wider image to about this width in pixels, where that is less work.
        depth: that of the stream, for 16-bit images (see `images.from_message`).

    Raises:
        PerceptionError: the encoding is not supported, or the data is damaged or cut off.
    """
    header = cdr.image_header(raw, topic, compressed=compressed)
    fields = cdr.image_fields(raw, header, topic)
    rgb = images.from_message(fields, f"an image on {topic}", width, depth)
    return scene.Frame(rgb, header.stamp_ns, header.frame_id)


def image(rgb: scene.Image, header: Header) -> Image:
    """The RGB image, shape (height, width, 3), as an rgb8 message."""
    height, width, channels = rgb.shape
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(rgb).data)  # ten times faster than bytes
    return Image(header=header, height=height, width=width, encoding="rgb8", step=channels * width, data=data)


def jpeg(rgb: scene.Image, header: Header, quality: int) -> CompressedImage:
    """The RGB image as a JPEG message of a quality from 0 to 100."""
    data = array.array("B", images.encode(rgb, ".jpg", quality))
    return CompressedImage(header=header, format="jpeg", data=data)


def detections(inferred: scene.Scene) -> Detection2DArray:
    """The detections of one frame, under the frame's own header."""
    top, width, height = header(inferred.stamp_ns, inferred.frame_id), inferred.width, inferred.height
    found = [_detection(top, d.label, d.score, d.box, "", width, height) for d in inferred.detections]
    return Detection2DArray(header=top, detections=found)


def classification(status: scene.AlertStatus, frame_id: str) -> Classification:
    """The probabilities of the answers to a standing question, under the header of its frame."""
    results = [ObjectHypothesis(class_id=text, score=share) for text, share in status.probabilities.items()]
    return Classification(header=header(status.stamp_ns, frame_id), results=results)


def tracks(tracks_: Sequence[scene.Track], header: Header, width: int, height: int) -> Detection2DArray:
    """Tracks as detections with the track id in `id`; `width` and `height` of the image in pixels."""
    found = [
        _detection(header, track.label, track.score, track.box, str(track.track_id), width, height)
        for track in tracks_
    ]
    return Detection2DArray(header=header, detections=found)


def _detection(
    header: Header, label: str, score: float, box: Box, track_id: str, width: int, height: int
) -> Detection2D:
    x1, y1, x2, y2 = box.in_pixels(width, height).tolist()
    result = ObjectHypothesisWithPose()
    result.hypothesis.class_id = label
    result.hypothesis.score = float(score)
    detection = Detection2D(header=header, results=[result], id=track_id)
    detection.bbox.center.position.x = (x1 + x2) / 2
    detection.bbox.center.position.y = (y1 + y2) / 2
    detection.bbox.size_x, detection.bbox.size_y = x2 - x1, y2 - y1
    return detection


def markers(
    tracks_: Sequence[scene.Track], header: Header, aspect: float, shapes: Sequence[scene.Shape] = ()
) -> MarkerArray:
    """Outline, name, velocity and velocity uncertainty of each track, for rviz, and zones and lines.

    Each marker of a track has its id; the first marker deletes those of the previous message. The arrow ends
    at the centre predicted 1 s ahead; the ellipse around its tip is one standard deviation of the velocity.

    Args:
        aspect: height of the image over its width.
    """
    shown = [Marker(header=header, action=Marker.DELETEALL)]
    for track in tracks_:
        x1, y1, x2, y2 = track.box.xyxy.tolist()
        centre = (x1 + x2) / 2, (y1 + y2) / 2
        ahead = centre[0] + track.velocity.x, centre[1] + track.velocity.y
        corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))
        colour = _colour(track.track_id)
        outline = _outline(header, "boxes", track.track_id, colour, corners, aspect)
        text = f"{track.label} {track.track_id}"
        name = _text(header, "names", track.track_id, colour, text, (centre[0], y1), aspect)
        arrow = _marker(header, "velocities", track.track_id, colour, Marker.ARROW)
        arrow.scale.x, arrow.scale.y = LINE_M, 3 * LINE_M
        arrow.points = [_point(*centre, aspect), _point(*ahead, aspect)]
        spread = _marker(header, "velocity_spreads", track.track_id, colour, Marker.SPHERE)
        spread.pose.position = _point(*ahead, aspect)
        spread.scale.x, spread.scale.y = 2 * track.velocity_std.x, 2 * track.velocity_std.y * aspect
        spread.scale.z, spread.color.a = LINE_M, 0.3
        shown += [outline, name, arrow, spread]
    for index, shape in enumerate(shapes):
        colour, top = _shape_colour(shape), min(shape.points, key=lambda point: point[1])
        shown.append(_outline(header, "zones", index, colour, _around(shape), aspect))
        shown.append(_text(header, "zone_names", index, colour, shape.text, top, aspect))
    return MarkerArray(markers=shown)


def image_markers(
    tracks_: Sequence[scene.Track],
    header: Header,
    width: int,
    height: int,
    shapes: Sequence[scene.Shape] = (),
) -> ImageMarker:
    """The outlines of all tracks, zones and lines over the image, in pixels, for Foxglove and rqt."""
    lines = ImageMarker(header=header, ns="tracks", type=ImageMarker.LINE_LIST, scale=2.0, lifetime=LIFETIME)
    for track in tracks_:
        x1, y1, x2, y2 = track.box.in_pixels(width, height).tolist()
        corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))
        _add_lines(lines, corners, _colour(track.track_id))
    for shape in shapes:
        pixels = [(x * width, y * height) for x, y in _around(shape)]
        _add_lines(lines, pixels, _shape_colour(shape))
    return lines


def _around(shape: scene.Shape) -> Sequence[tuple[float, float]]:
    """The points of a shape, the first one again at the end where it is closed."""
    return (*shape.points, shape.points[0]) if shape.closed else shape.points


def _add_lines(lines: ImageMarker, corners: Sequence[tuple[float, float]], colour: ColorRGBA) -> None:
    for begin, end in pairwise(corners):
        lines.points += [Point(x=begin[0], y=begin[1]), Point(x=end[0], y=end[1])]
        lines.outline_colors.append(colour)


def no_image_markers(header: Header) -> ImageMarker:
    """Removes the outlines."""
    return ImageMarker(header=header, ns="tracks", action=ImageMarker.REMOVE)


def _marker(header: Header, namespace: str, number: int, colour: ColorRGBA, kind: int) -> Marker:
    marker = Marker(header=header, ns=namespace, id=number % 2**31, type=kind, color=colour)
    marker.lifetime = LIFETIME
    marker.pose.orientation.w = 1.0
    return marker


def _outline(
    header: Header,
    namespace: str,
    number: int,
    colour: ColorRGBA,
    corners: Sequence[tuple[float, float]],
    aspect: float,
) -> Marker:
    outline = _marker(header, namespace, number, colour, Marker.LINE_STRIP)
    outline.scale.x = LINE_M
    outline.points = [_point(x, y, aspect) for x, y in corners]
    return outline


def _text(
    header: Header,
    namespace: str,
    number: int,
    colour: ColorRGBA,
    text: str,
    below: tuple[float, float],
    aspect: float,
) -> Marker:
    """A text above a point."""
    name = _marker(header, namespace, number, colour, Marker.TEXT_VIEW_FACING)
    name.scale.z, name.text = TEXT_M, text
    name.pose.position = _point(below[0], below[1] - TEXT_M / 2 / aspect, aspect)
    return name


def _point(x: float, y: float, aspect: float) -> Point:
    """A normalized image position as a point in the optical frame, metres."""
    return Point(x=x - 0.5, y=(y - 0.5) * aspect, z=1.0)


def _colour(track_id: int) -> ColorRGBA:
    return _rgba(track_colour(track_id))


def _shape_colour(shape: scene.Shape) -> ColorRGBA:
    return _rgba(ACTIVE if shape.active else IDLE)


def _rgba(colour: Colour) -> ColorRGBA:
    red, green, blue = (channel / 255.0 for channel in colour)
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)
