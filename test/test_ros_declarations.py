"""What is declared for ROS and needs no ROS to be tested: topics and launch arguments."""

from __future__ import annotations

from pathlib import Path

from lfm_perception.ros.topics import PERCEPTION, perception_subscriptions, with_tables

ROOT = Path(__file__).parents[1]


def test_the_tables_of_the_topics_page_are_the_generated_ones() -> None:
    page = (ROOT / "docs" / "topics.md").read_text(encoding="utf-8")
    assert page == with_tables(page), "run make docs"
    broken = page.replace("std_msgs/String", "std_msgs/Int32")
    assert broken != page
    assert with_tables(broken) == page


def test_one_image_topic_is_subscribed_to_with_the_reliability_of_the_setting() -> None:
    for transport, name in (("raw", "image_raw"), ("compressed", "image_raw/compressed")):
        image, query = perception_subscriptions(transport, "reliable")
        assert (image.name, image.qos.reliability, image.qos.depth) == (name, "reliable", 1)
        assert query.name == "input_query"


def test_a_recording_holds_all_topics_that_are_always_published() -> None:
    assert [topic.name for topic in PERCEPTION.recorded()] == [
        *("detections", "tracks", "scene", "raw_answer", "caption", "answer", "/diagnostics")
    ]
