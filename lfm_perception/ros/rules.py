# SPDX-License-Identifier: Apache-2.0
"""The rules of a running node: evaluated on a thread of their own, for the newest camera frame.

The camera's callback only hands the tracks over. The rule file is read on that thread too, and again when it
changes; what is wrong with it is logged and in the diagnostics, and the rules that can be used go on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rclpy.node import Node
from std_msgs.msg import String

from lfm_perception.errors import PerceptionError
from lfm_perception.files import user_path
from lfm_perception.live import Asker, LatestWorker
from lfm_perception.ros.diagnostics import OK, WARN, PartStatus
from lfm_perception.ros.endpoints import Publishers
from lfm_perception.ros.rule_actions import AskAdviser, RuleActions
from lfm_perception.ros.rule_questions import RuleQuestions
from lfm_perception.ros.topics import RULES
from lfm_perception.rules import Event, Known, RuleEngine, RuleFile, read_rules
from lfm_perception.rules.events import event_text, event_to_json, file_name
from lfm_perception.scene import NO_DRAWING, Frame, Scene, Track
from lfm_perception.settings import Settings
from lfm_perception.typed_questions import TypedQuestion

if TYPE_CHECKING:
    from lfm_perception.media.clips import ClipRecorder

USUAL_ASPECT = 0.75
"""Height over width of an image whose size is not known yet."""

FILE_PERIOD_S = 1.0
"""Period at which the rule file is checked for changes."""

MAX_LOGGED = 20
"""Maximum number of problems of a rule file that are logged."""

COUNTED = (
    *("questions asked", "questions left out", "calls lost", "snapshots deleted", "snapshots lost"),
    *("clips", "clips lost", "clip images left out"),
)
"""The counters of actions in the diagnostics."""


class RuleOutputs:
    """Publishes `events` and carries out actions. To be closed. For any thread.

    Args:
        decode: makes a frame of a serialized image; for snapshots.
        ask: asks a question of a rule in the name of an asker, if there is room for it.
        ask_adviser: `LivePerception.ask_adviser`.
        warn: called as `warn(kind, sentence)`.
        on_error: receives unexpected exceptions.
        on_event: receives each published event and the frame id of its image.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        decode: Callable[[bytes, int | None], Frame],
        ask: Callable[[TypedQuestion, Asker], bool],
        ask_adviser: AskAdviser,
        warn: Callable[..., None],
        on_error: Callable[[Exception], None],
        on_event: Callable[[Event, str], None] | None = None,
    ) -> None:
        self._node, self._settings, self._decode = node, settings, decode
        self._warn, self._on_error, self._on_event = warn, on_error, on_event
        self._outputs: Publishers | None = Publishers(node, RULES.publishers)
        self._lock, self._output_lock = threading.Lock(), threading.Lock()
        self._counts = Counter(dict.fromkeys(COUNTED, 0))
        questions = RuleQuestions(ask, self._publish_message, self._counts)
        self._new_actions = partial(
            RuleActions, node, decode=decode, warn=warn, questions=questions, counts=self._counts,
            ask_adviser=ask_adviser,
        )  # fmt: skip
        self._seen: tuple[object, ...] = ()
        self._look_s = 0.0
        self._problem, self._events, self._frame_id = "", 0, ""
        self._last_jumps = self._last_suppressed = self._last_lost = 0
        self.drawing = NO_DRAWING
        """Zones, lines and events as they are drawn."""
        self._file = RuleFile()
        self._engine = RuleEngine(self._file)
        self._actions = self._new_actions(rules=(), settings=settings.rules)
        self._clips: ClipRecorder | None = None
        self._worker = LatestWorker[Callable[[], None]]("rules", lambda work: work(), on_error)
        self._worker.submit(self._reload)

    def wait_read(self) -> None:
        """Wait until the rule file is read. It takes seconds if it is large."""
        self._worker.wait_idle()

    def submit(
        self,
        stamp_ns: int,
        frame_id: str,
        tracks: Sequence[Track],
        size: tuple[int, int],
        scene: Scene | None,
        raw: bytes,
    ) -> None:
        """Evaluate the rules for a camera frame, soon.

        Args:
            stamp_ns, frame_id: the header of the frame.
            tracks: those at its stamp.
            size: width and height of the image, pixels; 0 where unknown.
            scene: the latest one, for alerts and attributes.
            raw: the serialized image.
        """

        def evaluate() -> None:
            self._reload()
            with self._lock:
                self._frame_id = frame_id
                aspect = size[1] / size[0] if all(size) else USUAL_ASPECT
                events = self._engine.update(stamp_ns, tracks, aspect, scene)
                self.drawing = self._engine.drawing()
                self._publish(events, raw)

        self._worker.submit(evaluate)
        if (clips := self._clips) is not None:
            clips.submit(stamp_ns, frame_id, raw)

    def reconfigure(self, settings: Settings) -> None:
        """Apply other settings, without waiting; the file is read again where they concern it."""
        before, self._settings = self._settings, settings
        if before.rules != settings.rules or Known.of(before) != Known.of(settings):
            self._look_s = 0.0
            self._worker.submit(self._reload)

    def end_all(self) -> None:
        """End the active events: no frames are expected for now."""
        self._worker.clear()
        with self._lock:
            self._publish(self._engine.end_all())

    def close(self) -> None:
        self._worker.close()
        self.end_all()
        self._actions.close()
        self._open_clips(())
        with self._output_lock:  # an answer may come later
            outputs, self._outputs = self._outputs, None
        if outputs is not None:
            outputs.close()

    def _publish(self, events: Sequence[Event], raw: bytes = b"") -> None:
        self._events += sum(event.begins for event in events)
        for event in events:
            self._publish_message(event)
            if self._clips is not None and event.begins and event.rule in self._clipped:
                text = event_text(event_to_json(event, self._frame_id))
                self._clips.record(file_name(event), event.stamp_ns, text)
        self._actions.act(events, raw, self._frame_id)

    def _publish_message(self, event: Event) -> None:
        with self._output_lock:
            if self._outputs is not None:
                self._outputs.publish("events", partial(_message, event, self._frame_id))
                if self._on_event is not None:
                    self._on_event(event, self._frame_id)

    # --- the file --------------------------------------------------------------------------------------

    def _reload(self) -> None:
        """Read the file if it has changed since it was read last; looks at it once per `FILE_PERIOD_S`."""
        if (now_s := time.monotonic()) < self._look_s:
            return
        self._look_s = now_s + FILE_PERIOD_S
        settings = self._settings
        path, own_name = user_path(settings.rules.file), self._node.get_fully_qualified_name()
        known = replace(Known.of(settings), node=own_name)
        if (seen := (*_identity(path), settings.rules, known)) == self._seen:
            return
        same_file, self._seen = seen[:-1] == self._seen[:-1], seen
        try:
            file = read_rules(path, known)
        except PerceptionError as error:
            kept = f"; {len(self._file.rules)} rules from before stay in force" if self._file.rules else ""
            self._problem = f"rules.file: {error}{kept}"
            self._warn("rules", self._problem, 0.0)
            return
        self._problem = ""
        for problem in file.problems[:MAX_LOGGED]:
            self._warn("rules", f"{path}: {problem}", 0.0)
        if more := len(file.problems[MAX_LOGGED:]):
            self._warn("rules", f"{path}: {more} more problems: lfm-perception rules check {path}", 0.0)
        with self._lock:
            if same_file and replace(file, problems=()) == replace(self._file, problems=()):
                self._file = file  # other labels change no rule that names none of them: events go on
            else:
                self._use(file)
        count = len(file.rules)
        self._node.get_logger().info(f"{path}: {count} rule{'' if count == 1 else 's'} in force")

    def _use(self, file: RuleFile) -> None:
        """Put the rules of a file in force. The events of those before end."""
        self._publish(self._engine.end_all())
        self._actions.close()
        rules = self._settings.rules
        self._file, self._engine = file, RuleEngine(file, rules.max_rate)
        self._actions = self._new_actions(rules=file.rules, settings=rules)
        self._open_clips(rule.name for rule in file.rules if rule.actions.clip)
        self.drawing = self._engine.drawing()

    def _open_clips(self, names: Iterable[str]) -> None:
        """Record events of the rules of these names, if that is allowed; what is under way is completed."""
        self._clipped, settings = set(names), self._settings.rules
        clips, self._clips = self._clips, None
        if clips is not None:
            clips.close()
        if self._clipped and settings.actions and settings.clips:
            from lfm_perception.media.clips import ClipRecorder  # costs nothing without recordings

            compressed = self._settings.node.image_transport == "compressed"
            images, events = map(self._node.resolve_topic_name, ("image_raw/compressed", "events"))
            decode = None if compressed else self._decode
            self._clips = ClipRecorder(
                settings, (images, events), decode, self._warn, self._on_error, self._counts
            )

    def status(self) -> PartStatus:
        """The diagnostics of the rules."""
        engine, problems = self._engine, self._file.problems
        jumps, suppressed = engine.clock_jumps, engine.suppressed
        lost = sum(count for name, count in self._counts.items() if name.endswith("lost"))
        level, message = OK, f"{len(self._file.rules)} rules"
        if self._problem or problems:
            level, message = (
                WARN,
                self._problem or f"{len(problems)} cannot be used; the first: {problems[0]}",
            )
        elif jumps > self._last_jumps:
            level, message = WARN, "the camera's clock has jumped: durations begin anew"
        elif suppressed > self._last_suppressed:
            level, message = WARN, f"{suppressed - self._last_suppressed} events were suppressed"
        elif lost > self._last_lost:
            level, message = WARN, f"{lost - self._last_lost} results of actions were lost"
        self._last_jumps, self._last_suppressed, self._last_lost = jumps, suppressed, lost
        values = {
            "file": self._settings.rules.file,
            "rules": len(self._file.rules),
            "rules, zones and lines that cannot be used": len(problems),
            "events": self._events,
            "active events": len(engine.active_events),
            "events suppressed": suppressed,
            "clock jumps": jumps,
            **self._counts,
        }
        return PartStatus("rules", level, message, values)


def _message(event: Event, frame_id: str) -> String:
    return String(data=event_text(event_to_json(event, frame_id)))


def _identity(path: Path) -> tuple[object, ...]:
    """What changes when a file does: path, time, size and inode, or the error number of its `stat`."""
    try:
        found = path.stat()
    except OSError as error:
        return (str(path), error.errno)
    return (str(path), found.st_mtime_ns, found.st_size, found.st_ino)
