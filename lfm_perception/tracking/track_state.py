# SPDX-License-Identifier: Apache-2.0
"""The life of a track beside its motion: tentative, confirmed, coasting or lost; its label and its score."""

from __future__ import annotations

from dataclasses import dataclass, field

from lfm_perception.settings import TrackerSettings

SCORE_SMOOTHING = 0.3
"""Weight of the latest detection in a track's exponentially smoothed score."""

LABEL_VOTE_DECAY = 0.9
"""Factor of all label votes of a track with every new vote."""

LABEL_SWITCH_MARGIN = 0.5
"""Votes by which another label must lead before a track takes it."""

MAX_UNSEEN_S = 6.0
"""Time since the last detection after which a track ends although no view could show its object since."""

MIN_SEEN_SHARE = 0.5
"""Least time for which an object was seen, as a share of the time since, to be recognized when it returns:
where it is expected is known no better than its velocity."""

MIN_LABEL_VOTES = 0.02
"""Votes below which a label is dropped, so that memory stays bounded when a model invents labels."""


@dataclass(slots=True)
class TrackState:
    """State of one track; stamps in seconds. `settings` are those of its label.

    `unseen_s`: seconds since the last detection in which no view could show the object. They do not count as
    coasting. `unseen`: whether the last view was such a one.
    """

    track_id: int
    settings: TrackerSettings
    first_s: float
    last_s: float
    score: float
    hits: int = 1
    misses: int = 0
    unseen_s: float = 0.0
    unseen: bool = False
    label: str = ""
    label_votes: dict[str, float] = field(default_factory=dict)

    @property
    def confirmed(self) -> bool:
        """Whether the track has had `min_hits` detections; until then it is tentative."""
        return self.hits >= self.settings.min_hits

    @property
    def published(self) -> bool:
        """Whether the track is confirmed and was not missed by too many frames in a row."""
        return self.confirmed and self.misses <= self.settings.max_consecutive_misses

    def is_lost(self, stamp_s: float) -> bool:
        """Whether the unseen or missed track ends: a tentative one with the first miss."""
        if self.unseen:
            return stamp_s - self.last_s > MAX_UNSEEN_S
        return not self.confirmed or stamp_s - self.last_s - self.unseen_s > self.settings.max_age

    def is_dormant(self, stamp_s: float) -> bool:
        """Whether the track has been missed for so long that only its object's return can be recognized."""
        return self.misses > 0 and stamp_s - self.last_s - self.unseen_s > self.settings.max_coasting

    @property
    def max_prediction_s(self) -> float:
        """Time since the last detection up to which the track is published."""
        if self.unseen and not self.misses:
            return MAX_UNSEEN_S
        return min(self.settings.max_coasting, self.settings.max_age)

    def may_return(self, stamp_s: float) -> bool:
        """Whether the track is dormant and was known well enough for its object to be recognized now."""
        hidden_s = stamp_s - self.last_s
        return self.is_dormant(stamp_s) and self.last_s - self.first_s >= MIN_SEEN_SHARE * hidden_s

    def continues(self, earlier: TrackState) -> None:
        """Takes over the identity of the same object's earlier track."""
        self.track_id, self.first_s = earlier.track_id, earlier.first_s
        for name, votes in earlier.label_votes.items():
            self.label_votes[name] = self.label_votes.get(name, 0.0) + votes

    def match(self, label: str, score: float, stamp_s: float) -> None:
        """Counts a detection."""
        self.hits, self.misses, self.last_s = self.hits + 1, 0, stamp_s
        self.unseen_s, self.unseen = 0.0, False
        self.score += SCORE_SMOOTHING * (score - self.score)
        self.vote(label)

    def miss(self) -> None:
        """Counts an inferred frame without a detection, like a detection with a score of 0."""
        self.misses += 1
        self.unseen = False
        self.score *= 1.0 - SCORE_SMOOTHING

    def leave_unseen(self, seconds: float) -> None:
        """Counts an inferred frame, `seconds` after the one before, whose view could not show the object."""
        self.unseen_s += seconds
        self.unseen = True

    def vote(self, label: str) -> None:
        """Adds a vote for a label; the label with the most votes is the track's, with some hysteresis."""
        if len(self.label_votes) == 1 and label in self.label_votes:  # nearly always
            self.label_votes[label] = self.label_votes[label] * LABEL_VOTE_DECAY + 1.0
            return
        decayed = {name: votes * LABEL_VOTE_DECAY for name, votes in self.label_votes.items()}
        self.label_votes = {name: votes for name, votes in decayed.items() if votes >= MIN_LABEL_VOTES}
        self.label_votes[label] = self.label_votes.get(label, 0.0) + 1.0
        best = max(self.label_votes, key=lambda name: (self.label_votes[name], name))
        if self.label_votes[best] > self.label_votes.get(self.label, 0.0) + LABEL_SWITCH_MARGIN:
            self.label = best

    def label_agreement(self, label: str) -> float:
        """Share of the votes for this label, 0 to 1."""
        return self.label_votes.get(label, 0.0) / sum(self.label_votes.values())
