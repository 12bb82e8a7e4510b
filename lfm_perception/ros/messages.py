"""ROS messages to values and back. Pure translation: no node, no topic, no state.

Messages measure boxes in pixels of their image; values measure them normalized (see `geometry`). Markers
lie in the optical frame of the camera (REP 103: x right, y down, z forward), as if the image hung 1 m in
front of it and were 1 m wide.
"""

from __future__ import annotations

import array
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA, Header
from vision_msgs.msg import Detection2D, Detection2DArray, ObjectHypothesisWithPose
from visualization_msgs.msg import ImageMarker, Marker, MarkerArray

from lfm_perception import scene
from lfm_perception.colours import track_colour
from lfm_perception.errors import PerceptionError
from lfm_perception.geometry import Box
from lfm_perception.media import images

NANOSECONDS = 10**9

NAMESPACES = ("boxes", "names", "velocities", "velocity_spreads")
"""The four markers of a track, each in a namespace of its own with the track's id."""

LINE_M = 0.004
TEXT_M = 0.03


def stamp_ns(stamp: Time) -> int:
    """A stamp as nanoseconds."""
    return int(stamp.sec) * NANOSECONDS + int(stamp.nanosec)


def time(nanoseconds: int) -> Time:
    """Nanoseconds as a stamp."""
    return Time(sec=nanoseconds // NANOSECONDS, nanosec=nanoseconds % NANOSECONDS)


def header(nanoseconds: int, frame_id: str) -> Header:
    return Header(stamp=time(nanoseconds), frame_id=frame_id)


@dataclass(frozen=True, slots=True)
class ImageHead:
    """What an image message begins with; the size in pixels is None where it is compressed.

    `body`: where the fields behind these begin in the serialized message.
    """

    stamp_ns: int
    frame_id: str
    width: int | None
    height: int | None
    body: int


def image_head(raw: bytes, topic: str, *, compressed: bool) -> ImageHead:
    """The head of a serialized Image or CompressedImage (CDR). Takes microseconds; no pixel is touched.

    `topic` is what errors call the image. Raises PerceptionError for a message that is cut off.
    """
    try:
        return _image_head(raw, compressed)
    except (struct.error, IndexError) as error:
        raise _cut_off(raw, topic) from error


def _image_head(raw: bytes, compressed: bool) -> ImageHead:
    order = _order(raw)
    seconds, nanoseconds, length = struct.unpack_from(f"{order}iII", raw, 4)
    frame_id = raw[16 : 16 + length - 1].decode(errors="replace")
    stamp = seconds * NANOSECONDS + nanoseconds
    body = _aligned(16 + length)
    if compressed:
        return ImageHead(stamp, frame_id, None, None, body)
    height, width = struct.unpack_from(f"{order}II", raw, body)
    return ImageHead(stamp, frame_id, width, height, body + 8)


def frame(raw: bytes, topic: str, *, compressed: bool, width: int | None = None) -> scene.Frame:
    """The picture of a serialized Image or CompressedImage, with the header it came with.

    The pixels are read where they lie, which saves the copy that deserializing makes. `topic` is what
    errors call the image. With `width`, a wider picture comes about that many pixels wide, if that is less
    work (see `images.from_message`).

    Raises PerceptionError for an encoding nobody knows, and for data that is damaged or cut off.
    """
    head = image_head(raw, topic, compressed=compressed)
    try:
        message = _image_body(raw, head)
    except (struct.error, IndexError) as error:
        raise _cut_off(raw, topic) from error
    picture = images.from_message(message, f"an image on {topic}", width)
    return scene.Frame(picture, head.stamp_ns, head.frame_id)


def _image_body(raw: bytes, head: ImageHead) -> SimpleNamespace:
    """The fields that `images.from_message` reads."""
    order = _order(raw)
    text, at = _string(raw, head.body, order)  # the format or the encoding
    if head.width is None:
        return SimpleNamespace(format=text, data=_bytes(raw, _aligned(at), order))
    at_step = _aligned(at + 1)
    return SimpleNamespace(
        height=head.height,
        width=head.width,
        encoding=text,
        is_bigendian=raw[at],
        step=struct.unpack_from(f"{order}I", raw, at_step)[0],
        data=_bytes(raw, at_step + 4, order),
    )


def _cut_off(raw: bytes, topic: str) -> PerceptionError:
    return PerceptionError(f"an image on {topic} is cut off after {len(raw)} bytes")


def _order(raw: bytes) -> str:
    return "<" if raw[1] else ">"


def _aligned(offset: int) -> int:
    """The next place for 4 bytes. Offsets count from behind the 4 bytes of encapsulation: no difference."""
    return offset + -offset % 4


def _string(raw: bytes, at: int, order: str) -> tuple[str, int]:
    """A string and where it ends, its closing zero included."""
    (length,) = struct.unpack_from(f"{order}I", raw, at)
    return raw[at + 4 : at + 4 + length - 1].decode(errors="replace"), at + 4 + length


def _bytes(raw: bytes, at: int, order: str) -> memoryview:
    """A sequence of bytes, not copied."""
    (length,) = struct.unpack_from(f"{order}I", raw, at)
    return memoryview(raw)[at + 4 : at + 4 + length]


def image(rgb: scene.Image, header: Header) -> Image:
    """A picture as a message, rgb8."""
    height, width, channels = rgb.shape
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(rgb).data)  # ten times faster than bytes
    return Image(header=header, height=height, width=width, encoding="rgb8", step=channels * width, data=data)


def detections(seen: scene.Scene) -> Detection2DArray:
    """What the model named in one frame, under the frame's own header."""
    top = header(seen.stamp_ns, seen.frame_id)
    found = [_detection(top, d.label, d.score, d.box, "", seen.width, seen.height) for d in seen.detections]
    return Detection2DArray(header=top, detections=found)


def tracks(known: Sequence[scene.Track], header: Header, width: int, height: int) -> Detection2DArray:
    """Tracks as detections whose `id` is the track's; `width` and `height` of the image in pixels."""
    found = [
        _detection(header, track.label, track.score, track.box, str(track.track_id), width, height)
        for track in known
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


def markers(known: Sequence[scene.Track], header: Header, aspect: float) -> MarkerArray:
    """Outline, name and velocity of each track, for rviz; `aspect` is the image's height over its width.

    The first marker deletes those of the message before. The velocity's arrow ends where the centre will
    be in one second; the ellipse around its tip is one standard deviation of the velocity.
    """
    shown = [Marker(header=header, action=Marker.DELETEALL)]
    for track in known:
        x1, y1, x2, y2 = track.box.xyxy.tolist()
        centre = (x1 + x2) / 2, (y1 + y2) / 2
        ahead = centre[0] + track.velocity.x, centre[1] + track.velocity.y
        corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))
        outline = _marker(header, 0, track, Marker.LINE_STRIP)
        outline.scale.x = LINE_M
        outline.points = [_place(x, y, aspect) for x, y in corners]
        name = _marker(header, 1, track, Marker.TEXT_VIEW_FACING)
        name.scale.z = TEXT_M
        name.text = f"{track.label} {track.track_id}"
        name.pose.position = _place(centre[0], y1 - TEXT_M / 2 / aspect, aspect)
        arrow = _marker(header, 2, track, Marker.ARROW)
        arrow.scale.x, arrow.scale.y = LINE_M, 3 * LINE_M
        arrow.points = [_place(*centre, aspect), _place(*ahead, aspect)]
        spread = _marker(header, 3, track, Marker.SPHERE)
        spread.pose.position = _place(*ahead, aspect)
        spread.scale.x, spread.scale.y = 2 * track.velocity_std.x, 2 * track.velocity_std.y * aspect
        spread.scale.z, spread.color.a = LINE_M, 0.3
        shown += [outline, name, arrow, spread]
    return MarkerArray(markers=shown)


def outlines(known: Sequence[scene.Track], header: Header, width: int, height: int) -> ImageMarker:
    """The boxes of all tracks as lines over the image, in pixels, for Foxglove and rqt."""
    lines = ImageMarker(header=header, ns="tracks", type=ImageMarker.LINE_LIST, scale=2.0)
    for track in known:
        x1, y1, x2, y2 = track.box.in_pixels(width, height).tolist()
        corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))
        for begin, end in pairwise(corners):
            lines.points += [Point(x=begin[0], y=begin[1]), Point(x=end[0], y=end[1])]
            lines.outline_colors.append(_colour(track.track_id))
    return lines


def _marker(header: Header, namespace: int, track: scene.Track, kind: int) -> Marker:
    marker = Marker(header=header, ns=NAMESPACES[namespace], id=track.track_id % 2**31, type=kind)
    marker.pose.orientation.w = 1.0
    marker.color = _colour(track.track_id)
    return marker


def _place(x: float, y: float, aspect: float) -> Point:
    """A normalized place in the image as a point in the optical frame, metres."""
    return Point(x=x - 0.5, y=(y - 0.5) * aspect, z=1.0)


def _colour(track_id: int) -> ColorRGBA:
    red, green, blue = (channel / 255.0 for channel in track_colour(track_id))
    return ColorRGBA(r=red, g=green, b=blue, a=1.0)
