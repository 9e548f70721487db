import logging

from transformers.utils import logging as transformers_logging

from diffguide.pipelines.loading import load_pipeline
from diffguide.pipelines.quiet import once
from diffguide.pipelines.sampling import call_pipeline


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


def test_a_long_prompt_is_said_to_be_cut_off_and_no_error_is_foretold(diffusers_log, caplog):
    pipe = load_pipeline("emoji-sd", progress_bar=False)
    told = transformers_logging.get_logger("transformers")
    told.addHandler(caplog.handler)
    try:
        call_pipeline(pipe, {"prompt": "apple " * 30, "num_inference_steps": 1, "output_type": "latent"})
        assert [message for message in diffusers_log.messages if "was truncated" in message]
        assert not [message for message in caplog.messages if "indexing errors" in message]
        pipe.tokenizer.deprecation_warnings.clear()  # it speaks once
        pipe.tokenizer("apple " * 30)
        assert [message for message in caplog.messages if "indexing errors" in message]
    finally:
        told.removeHandler(caplog.handler)
