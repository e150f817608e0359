"""What would stop a later step is refused before the first one computes anything."""

from eagle_hf.data import PrivacyFilter, ServedAnswerer, TemplateArguments
from eagle_hf.data.templates.template import chat_template
from eagle_hf.head.modeling import Eagle3DraftHead
from eagle_hf.pipeline.local import api_key, privacy_settings, serving_settings
from eagle_hf.pipeline.settings import DataConfig
from eagle_hf.pipeline.target import RunTarget


def check_run(config: DataConfig, target: RunTarget, steps: list[str]) -> None:
    """Refuse a run that a later step would refuse.

    Args:
        config: of the run.
        target: of the run; its tokenizer is opened.
        steps: names of the steps that are to be made.

    Raises:
        ValueError: a setting that a room refuses, a library that is not installed, a variable of
            the environment that is not set, or a head that does not open.
    """
    if "privacy" in steps or ("conversations" in steps and "privacy" in config.steps):
        PrivacyFilter(privacy_settings(config))
    if "answers" in steps and config.answers.servers:
        ServedAnswerer(config.answers.servers, serving_settings(config))
        api_key(config.answers)
    if "answers" in steps or "examples" in steps:
        template = chat_template(target.tokenizer)
        TemplateArguments.read(config.chat_template_kwargs).check_read_by(template)
        target.eos_token_ids()
    if "features" in steps and config.features.head is not None:
        Eagle3DraftHead.from_pretrained(config.features.head)
