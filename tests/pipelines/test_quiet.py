import logging

from diffguide.pipelines.quiet import once


def test_each_line_of_diffusers_speaks_once_and_as_often_as_it_likes_afterwards(diffusers_log):
    speaker = logging.getLogger("diffusers.pipelines.some_pipeline")

    def call(number):
        speaker.warning(f"cut off in call {number}")
        speaker.warning("and more")

    with once():
        call(1)
        call(2)
    assert diffusers_log.messages == ["cut off in call 1", "and more"]
    call(3)
    assert diffusers_log.messages[2:] == ["cut off in call 3", "and more"]
